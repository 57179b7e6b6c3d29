"""Read the latent shards of LightningDiT's feature extraction, and write this library's latents in that format."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from jitflow.apps.microdoppler.latent_file import LatentFile, LatentInfo
from jitflow.apps.microdoppler.latent_statistics import channel_statistics, save_statistics
from jitflow.errors import ConfigError, DataError
from jitflow.io.array_file import open_arrays
from jitflow.io.files import atomic_path, load_checkpoint, user_path, writable_folder

log = logging.getLogger(__name__)
STATISTICS = "latents_stats.pt"
# Without a validation part, one row of a user in this many is held out.
_HOLD_OUT_EVERY = 20
_DOWNSAMPLING = 16
_FLOATS = ("float32", "float16")


class JoinedRows:
    """Concatenation of memory-mapped arrays along the first axis, read only where it is indexed.

    Args:
        parts: Arrays of shape ``(N_i, *S)``.
        rows: Indices of the rows to keep, in this order.
    """

    def __init__(self, parts: Sequence[np.ndarray], rows: np.ndarray) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self._rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows together, ``(N, *S)``."""
        return (len(self._rows), *self._parts[0].shape[1:])

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        wanted = self._rows[index]
        flat = np.atleast_1d(wanted)
        out = np.empty((len(flat), *self.shape[1:]), np.float32)
        which = np.searchsorted(self._ends, flat, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        for part in np.unique(which):
            mine = which == part
            out[mine] = self._parts[part][flat[mine] - starts[part]]
        return out if np.ndim(wanted) else out[0]


class LatentShards(LatentFile):
    """Training or validation latents from a folder of shards; the users' numbers are ``labels`` + 1.

    Shards hold ``latents`` and ``labels``, from 0; their ``latents_flip`` is unused, since time has a direction.

    Args:
        folder: Folder of the shards.
        hold_out: None for all rows; where some rows of each user are held out for validation, True for these and
            False for the others.

    Raises:
        DataError: If a shard is damaged, holds other arrays, or does not fit the others.
    """

    def __init__(self, folder: str | Path, hold_out: bool | None = None) -> None:
        self.hold_out = hold_out
        super().__init__(folder)

    def _open(self) -> None:
        files = find_shards(self.path)
        parts = [_open_shard(file) for file in files]
        shapes = {latents.shape[1:] for latents, _ in parts}
        if len(shapes) != 1:
            raise DataError(f"the shards in {self.path} hold latents of different shapes: {sorted(shapes)}")
        labels = np.concatenate([labels for _, labels in parts])
        rows = np.arange(len(labels))
        if self.hold_out is not None:
            rows = rows[_held_out(labels) == self.hold_out]
        self.latents = JoinedRows([latents for latents, _ in parts], rows)
        self.labels = labels[rows]
        self.user_ids = self.labels + 1
        self.conditions = None
        mean, std = _statistics(self.path, JoinedRows([latents for latents, _ in parts], np.arange(len(labels))))
        height, width = self.shape[1:]
        # No file records which VA-VAE made them.
        size = (height * _DOWNSAMPLING, width * _DOWNSAMPLING)
        named = json.dumps([[file.name, file.stat().st_size] for file in files]).encode()
        self.info = LatentInfo(mean, std, "", "", size, hashlib.sha256(named + labels.tobytes()).hexdigest())

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "hold_out": self.hold_out}


def find_shards(folder: Path) -> list[Path]:
    """List the latent shards in a folder by name; files with other arrays are not listed."""
    found = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    return [path for path in found if {"latents", "labels"} <= set(open_arrays(path)[0])]


def open_shards(folder: Path) -> tuple[LatentShards, LatentShards]:
    """Open shards as training and validation latents; without a folder ``val`` or ``validation``, rows are held out.

    Args:
        folder: Folder of the shards, or of folders ``train`` and ``val`` that hold them.
    """
    train = folder if find_shards(folder) else folder / "train"
    for name in ("val", "validation"):
        beside = train.parent / name
        if beside != train and beside.is_dir() and find_shards(beside):
            parts = LatentShards(train), LatentShards(beside)
            # The statistics of the training latents normalise both.
            parts[1].info = parts[0].info
            return parts
    parts = LatentShards(train, hold_out=False), LatentShards(train, hold_out=True)
    log.info(
        "%s holds shards of latents without a validation part; %d of %d rows are held out",
        train,
        len(parts[1]),
        sum(map(len, parts)),
    )
    if any("latents_flip" in open_arrays(file)[0] for file in find_shards(train)):
        log.info("the mirrored latents (latents_flip) in %s are left out: time has a direction", train)
    return parts


def has_shards(folder: Path) -> bool:
    """Whether a folder, or ``train`` in it, holds shards of latents rather than the latents of stage 1."""
    own = folder / "train.safetensors"
    if own.exists() or own.with_name(own.name + ".part").exists():
        # A single shard may have this name too.
        return own.exists() and set(open_arrays(own)[0]) - {"latents_flip"} == {"latents", "labels"}
    return any(place.is_dir() and bool(find_shards(place)) for place in (folder, folder / "train"))


def write_shards(latent_dir: str | Path, out: str | Path, *, rows_per_shard: int = 10_000) -> list[Path]:
    """Write the training latents of stage 1 as LightningDiT reads them: shards, and the statistics beside them.

    ``latents_flip``, from which its training draws every other time, is the same as ``latents``: a spectrogram is never
    mirrored.

    Args:
        latent_dir: Folder of stage 1.
        out: A new or empty folder, since LightningDiT reads every safetensors file in it.
        rows_per_shard: Latents per file.

    Returns:
        The files of latents.

    Raises:
        ConfigError: If the folder is not empty.
    """
    file = LatentFile(user_path(latent_dir) / "train.safetensors")
    folder = writable_folder(out)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder for the shards")
    if file.info.conditions is not None:
        log.warning("the shards have no conditions, which the release does not know; only users are written")
    written = []
    for number, start in enumerate(range(0, len(file), rows_per_shard)):
        rows = slice(start, start + rows_per_shard)
        latents = np.ascontiguousarray(file.latents[rows])
        arrays = {"latents": latents, "latents_flip": latents.copy(), "labels": file.labels[rows]}
        path = folder / f"latents_rank00_shard{number:03d}.safetensors"
        metadata = {"total_size": str(len(latents)), "dtype": "torch.float32", "device": "cpu"}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata)
        written.append(path)
    save_statistics(folder / STATISTICS, np.asarray(file.info.mean), np.asarray(file.info.std))
    return written


def _open_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    arrays, _ = open_arrays(path)
    latents, labels = arrays["latents"], np.array(arrays["labels"])
    if latents.ndim != 4 or latents.dtype.name not in _FLOATS or labels.shape != (len(latents),):
        raise DataError(
            f"{path}: latents must be (N, channels, height, width) of floats and labels (N,); got {latents.dtype} "
            f"{latents.shape} and {labels.shape}"
        )
    if labels.dtype.kind not in "iu" or (len(labels) and int(labels.min()) < 0):
        raise DataError(f"{path}: labels must be whole numbers from 0; got {labels.dtype}")
    return np.asarray(latents), labels.astype(np.int64)


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Return a mask of every twentieth row of each label, at least one of two."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held[rows[1::_HOLD_OUT_EVERY]] = True
    return held


def _statistics(folder: Path, latents: JoinedRows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, from the file beside the shards or else computed from all rows."""
    channels = latents.shape[1]
    path = folder / STATISTICS
    if path.is_file():
        content = load_checkpoint(path)
        values = [content.get(name) for name in ("mean", "std")]
        if not all(isinstance(v, torch.Tensor) and v.numel() == channels for v in values):
            raise DataError(f"{path} must hold mean and std of {channels} channels; remove it to have them measured")
        mean, std = (tuple(float(x) for x in v.flatten()) for v in values if isinstance(v, torch.Tensor))
    else:
        measured = channel_statistics(latents)
        mean, std = (tuple(float(x) for x in v) for v in measured)
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise DataError(f"the latents in {folder} have a mean or deviation that is not finite or not positive")
    return mean, std
