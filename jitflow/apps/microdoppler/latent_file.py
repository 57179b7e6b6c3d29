"""Memory-mapped file of latents, with metadata that records how they were made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jitflow.apps.microdoppler.latent_statistics import Rows
from jitflow.codec.base import UNSCALED
from jitflow.core.condition_table import ConditionTable
from jitflow.errors import ConfigError, DataError, unknown_name
from jitflow.io.array_file import open_arrays
from jitflow.io.json_text import parse_json

FORMAT = "jitflow latents"
STAGE_1 = "run stage1_extract_features.py"
CONDITIONS = "conditions"
"""Array with the codes of named conditions, and entry of the metadata with their table."""
_ARRAYS = {"latents": "float32", "labels": "int64", "user_ids": "int64"}
BLOCK_BYTES = 1 << 24
"""Bytes of latents checked at once, which bounds memory."""


@dataclass(frozen=True)
class LatentInfo:
    """Metadata of a file of latents: statistics of the channels, codec and origin.

    Attributes:
        mean: Mean of each channel over the training latents.
        std: Standard deviation of each channel over the training latents.
        codec_id: Name of the image codec that made them, such as ``vae_f16d32``.
        codec_checksum: Its checksum.
        img_size: Height and width of the images in pixels.
        fingerprint: Checksum of the images and settings they were made from.
        arrays: Record of the scale of spectrogram arrays, see
            :class:`~jitflow.apps.microdoppler.arrays.scale.ArrayScale`; None for latents of pictures.
        conditions: Named conditions besides the user; None for none.
        scaling: Factor and shift by which the codec has scaled its latents, ``(z - shift) * factor``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    codec_id: str
    codec_checksum: str
    img_size: tuple[int, int]
    fingerprint: str
    arrays: dict[str, Any] | None = None
    conditions: ConditionTable | None = None
    scaling: tuple[float, float] = UNSCALED

    def to_metadata(self) -> dict[str, str]:
        """Return text entries for the header of the latent file."""
        return {
            "format": FORMAT,
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "codec_id": self.codec_id,
            "codec_checksum": self.codec_checksum,
            "img_size": json.dumps(self.img_size),
            "fingerprint": self.fingerprint,
            **({} if self.arrays is None else {"arrays": json.dumps(self.arrays)}),
            **({} if self.conditions is None else {CONDITIONS: json.dumps(self.conditions.to_record())}),
            **({} if self.scaling == UNSCALED else {"scaling": json.dumps(self.scaling)}),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, source: object) -> LatentInfo:
        """Parse the latent file's header entries of :meth:`to_metadata`.

        Args:
            metadata: The header entries.
            source: Their file, for the error message.

        Raises:
            DataError: If an entry is missing or invalid.
        """
        try:
            mean, std = (tuple(float(v) for v in parse_json(metadata[name])) for name in ("mean", "std"))
            height, width = (int(side) for side in parse_json(metadata["img_size"]))
            factor, shift = (float(v) for v in parse_json(metadata.get("scaling", json.dumps(UNSCALED))))
            info = cls(
                mean,
                std,
                metadata["codec_id"],
                metadata["codec_checksum"],
                (height, width),
                metadata.get("fingerprint", ""),
                parse_json(metadata["arrays"]) if "arrays" in metadata else None,
                ConditionTable.of_record(parse_json(metadata[CONDITIONS])) if CONDITIONS in metadata else None,
                (factor, shift),
            )
        except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{source} does not say how its latents were made ({type(error).__name__}: {error}); {STAGE_1}"
            ) from None
        if not all(math.isfinite(m) for m in mean) or not all(math.isfinite(s) and s > 0 for s in std):
            raise DataError(f"{source} has a mean or std that is not finite or not positive; {STAGE_1} again")
        return info


class LatentFile(Dataset[tuple[Tensor, int]]):
    """Data set of a latent file, memory-mapped and read in whole batches.

    Args:
        path: ``train.safetensors`` or ``val.safetensors``.

    Attributes:
        latents: Shape ``(N, Z, h, w)``, float32, read-only.
        labels: Shape ``(N,)``, int64, from 0.
        conditions: Codes of the named conditions, shape ``(N, K)``, float32; None for none.
        info: The file's metadata.
        classes: Name of each label, such as ``user01``; set by the data module.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged or holds other arrays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.classes: list[str] = []
        self._open()

    def _open(self) -> None:
        arrays, metadata = open_arrays(self.path)
        found = {name: array.dtype.name for name, array in arrays.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if any(found.get(name) != dtype for name, dtype in _ARRAYS.items()):
            expected = ", ".join(f"{name} {dtype}" for name, dtype in _ARRAYS.items())
            content = ", ".join(f"{name} {dtype}" for name, dtype in found.items())
            raise DataError(f"{self.path} holds {content or 'nothing'} instead of {expected}; {STAGE_1}")
        num = len(arrays["latents"]) if arrays["latents"].ndim == 4 else -1
        if shapes["labels"] != (num,) or shapes["user_ids"] != (num,):
            raise DataError(
                f"{self.path}: latents must be (N, channels, height, width) and labels and user_ids (N,); got "
                f"{shapes['latents']}, {shapes['labels']}, {shapes['user_ids']}"
            )
        if num == 0:
            raise DataError(f"{self.path} holds no latents; {STAGE_1}")
        # Plain arrays, since rows of a memmap would needlessly be memmaps.
        self.latents: Rows = np.asarray(arrays["latents"])
        self.labels = np.array(arrays["labels"])
        self.user_ids = np.array(arrays["user_ids"])
        self.info = LatentInfo.from_metadata(metadata, source=self.path)
        if len(self.info.mean) != self.shape[0] or len(self.info.std) != self.shape[0]:
            raise DataError(
                f"{self.path} has latents of {self.shape[0]} channels and statistics of {len(self.info.mean)}, "
                f"{len(self.info.std)}; {STAGE_1} again"
            )
        self.conditions = self._read_conditions(arrays)

    def _read_conditions(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        table = self.info.conditions
        if table is None:
            return None
        found = arrays.get(CONDITIONS)
        if found is None or found.dtype.name != "float32" or found.shape != (len(self.labels), len(table)):
            raise DataError(
                f"{self.path} has no codes of its conditions {', '.join(table.conditions)}; {STAGE_1} again"
            )
        codes = np.array(found)
        try:
            table.check_codes(torch.from_numpy(codes))
        except ConfigError as error:
            raise DataError(f"{self.path}: {error}; {STAGE_1} again") from None
        return codes

    @property
    def full_labels(self) -> np.ndarray:
        """Labels as the network takes them: shape ``(N,)``, int64, or with conditions ``(N, 1 + K)``, float32."""
        if self.conditions is None:
            return self.labels
        return np.concatenate([self.labels[:, None].astype(np.float32), self.conditions], axis=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one sample, ``(Z, h, w)``."""
        channels, height, width = self.latents.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.latents[index].copy()), int(self.labels[index])

    def read_batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents ``(B, Z, h, w)`` and labels ``(B,)``, or ``(B, 1 + K)``, at the indices ``(B,)``."""
        rows = index.numpy()
        classes = torch.from_numpy(self.labels[rows])
        if self.conditions is None:
            return torch.from_numpy(self.latents[rows]), classes
        labels = torch.cat([classes.float()[:, None], torch.from_numpy(self.conditions[rows])], dim=1)
        return torch.from_numpy(self.latents[rows]), labels

    def choose_conditions(self, names: Sequence[str]) -> None:
        """Keep some of the named conditions; raise ConfigError if the file has no such one."""
        table = self.info.conditions
        known = [] if table is None else list(table.conditions)
        for name in names:
            if name not in known:
                raise unknown_name(f"condition (data.conditions) of {self.path}", name, known)
        if table is None or self.conditions is None:
            return
        kept = {name: table.conditions[name] for name in names}
        self.conditions = self.conditions[:, [known.index(name) for name in names]] if kept else None
        self.info = replace(self.info, conditions=ConditionTable(kept) if kept else None)

    def __getstate__(self) -> dict[str, Any]:
        # A new process maps the file itself; pickling the array would read all of it.
        chosen = None if self.info.conditions is None else list(self.info.conditions.conditions)
        return {"path": self.path, "classes": self.classes, "chosen": chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        chosen = state.pop("chosen")
        self.__dict__.update(state)
        self._open()
        self.choose_conditions(chosen or [])

    def check_finite(self) -> None:
        """Read all latents once, in blocks; raise DataError, naming the row, if one is NaN or infinite."""
        rows = max(1, BLOCK_BYTES // self.latents[0].nbytes)
        for start in range(0, len(self), rows):
            finite = np.isfinite(self.latents[start : start + rows]).all(axis=(1, 2, 3))
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise DataError(f"{self.path}: the latents of row {row} hold NaN or infinity; {STAGE_1} again")
