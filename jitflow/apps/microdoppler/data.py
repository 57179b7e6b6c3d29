"""Data module for precomputed micro-Doppler latents, memory-mapped from their files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from jitflow.apps.microdoppler.latent_file import STAGE_1, LatentFile
from jitflow.apps.microdoppler.latent_shards import has_shards, open_shards
from jitflow.apps.microdoppler.leakage import describe_leakage
from jitflow.core.combinations import Combinations
from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.file_tree import log_once
from jitflow.io.files import read_json, user_path

LINEAR_CODEC_NAME = "linear_codec.safetensors"
DONE_NAME = "extraction.json"
"""Final record of an extraction."""
_SHOWN = 5


class LatentDataModule(ImageDataModule):
    """Data module of users' latents in ``latent_dir/train.safetensors`` and ``val.safetensors``, not normalised.

    Shards of LightningDiT's feature extraction are read as well (:mod:`jitflow.apps.microdoppler.latent_shards`). The
    files are memory-mapped, so memory does not grow with their size. Creating the object does not access the disk.

    Args:
        latent_dir: Folder that stage 1 wrote.
        batch_size: Latents per batch and process.
        latent_shape: Required shape of one sample, ``(Z, h, w)``; None accepts any.
        conditions: Names of the conditions in the files to use, besides the user; None for all of them.
        loading: Further :class:`~jitflow.data.base.LoaderSettings`. The files are memory-mapped, so 0 workers are
            fastest.

    Raises:
        ConfigError: If a number is out of range.
    """

    unit = "latents"

    def __init__(
        self,
        latent_dir: str | Path,
        batch_size: int = 32,
        *,
        latent_shape: Sequence[int] | None = None,
        conditions: Sequence[str] | None = None,
        **loading: Any,
    ) -> None:
        # The image size is stored in the files; setup replaces this one.
        super().__init__(256, batch_size, LoaderSettings(**loading))
        if latent_shape is not None and (len(latent_shape) != 3 or min(latent_shape) < 1):
            raise ConfigError(f"latent_shape is (channels, height, width); got {tuple(latent_shape)}")
        self.latent_dir = user_path(latent_dir)
        self.latent_shape = None if latent_shape is None else tuple(latent_shape)
        self.conditions = None if conditions is None else list(conditions)
        self.user_ids: list[int] = []

    def prepare_data(self) -> None:
        """Check that the latent files exist, before anything else starts.

        Raises:
            MissingFileError: If one is missing.
        """
        if not has_shards(self.latent_dir):
            self._path("train")
            self._path("val")

    def setup(self, stage: str | None = None) -> None:
        """Map both latent files and check all values once.

        Args:
            stage: Ignored; both files are always opened.

        Raises:
            MissingFileError: If a file is missing.
            DataError: If a file is damaged or holds other arrays, shapes differ, a label is out of range or
                belongs to two users, a user is missing in one of the files, they were made by different codecs, or a
                latent is not finite.
        """
        if self.dataset_train is not None:
            return
        train, val = self._open_parts()
        for file in (train, val):
            if self.latent_shape is not None and file.shape != self.latent_shape:
                raise DataError(f"{file.path} has latents of shape {file.shape}; expected {self.latent_shape}")
        if val.shape != train.shape:
            raise DataError(f"train has latents of shape {train.shape} and val of {val.shape} in {self.latent_dir}")
        _check_same_origin(train, val)
        users = _users_by_label(train)
        _check_users(val, users)
        if not has_shards(self.latent_dir):
            _check_nobody_missing(val, users)
        for file in (train, val):
            file.check_finite()
            if self.conditions is not None:
                file.choose_conditions(self.conditions)
            file.classes = [f"user{user_id:02d}" for user_id in users]
        self.user_ids = users
        self.img_size = train.info.img_size
        self.dataset_train, self.dataset_val = train, val
        record = self.latent_dir / DONE_NAME
        leakage = read_json(record).get("leakage") if record.is_file() else None
        if leakage:
            leaks, line = describe_leakage(leakage)
            log_once(line, logging.WARNING if leaks else logging.INFO)

    def get_dataset_info(self) -> dict[str, Any]:
        """Describe the training data.

        Returns:
            The entries of the base class (``img_size`` is that of the images, in pixels), and ``user_ids`` (numbers
            from 1, by label), ``latent_shape``, ``mean``, ``std`` (a number for each channel), ``codec`` (``id``,
            ``checksum``, ``img_size`` of the image codec), ``linear_codec`` (the file of a linear codec,
                if present; else None), ``fingerprint`` (checksum of the extraction's images and settings), ``axes``
                (time and velocity of the images' edges, if known; else None), and, for spectrogram arrays,
                ``arrays`` (record of their scale); with named conditions ``conditions`` (their table) and
                ``combinations`` (what the training data have, see :class:`~jitflow.core.combinations.Combinations`).
        """
        info = super().get_dataset_info()
        file: LatentFile = self.dataset_train
        linear = self.latent_dir / LINEAR_CODEC_NAME
        return {
            **info,
            "user_ids": list(self.user_ids),
            "latent_shape": file.shape,
            "mean": list(file.info.mean),
            "std": list(file.info.std),
            "codec": {
                "id": file.info.codec_id,
                "checksum": file.info.codec_checksum,
                "img_size": list(file.info.img_size),
            },
            "linear_codec": str(linear) if file.info.codec_id.startswith("linear") and linear.is_file() else None,
            "fingerprint": file.info.fingerprint,
            "axes": read_json(record).get("axes") if (record := self.latent_dir / DONE_NAME).is_file() else None,
            **({} if file.info.arrays is None else {"arrays": file.info.arrays}),
            **_describe_conditions(file),
        }

    def _open_parts(self) -> tuple[LatentFile, LatentFile]:
        if has_shards(self.latent_dir):
            return open_shards(self.latent_dir)
        return LatentFile(self._path("train")), LatentFile(self._path("val"))

    def _path(self, split: Literal["train", "val"]) -> Path:
        path = self.latent_dir / f"{split}.safetensors"
        if path.is_file():
            return path
        unfinished = path.with_name(path.name + ".part").exists()
        if unfinished:
            raise MissingFileError(f"{path} is not finished; repeat the same {STAGE_1.removeprefix('run ')} to resume")
        raise MissingFileError(f"latents {path} do not exist; {STAGE_1} with --output_path {self.latent_dir}")


def _describe_conditions(file: LatentFile) -> dict[str, Any]:
    table = file.info.conditions
    if table is None:
        return {}
    combinations = Combinations.of_labels(torch.from_numpy(file.full_labels), table)
    return {"conditions": table.to_record(), "combinations": combinations.to_record()}


def _check_same_origin(train: LatentFile, val: LatentFile) -> None:
    a, b = train.info, val.info
    if (a.codec_id, a.codec_checksum, a.img_size) != (b.codec_id, b.codec_checksum, b.img_size):
        raise DataError(
            f"train and val in {train.path.parent} were made by different codecs ({a.codec_id} {a.codec_checksum[:12]} "
            f"{a.img_size}, {b.codec_id} {b.codec_checksum[:12]} {b.img_size}); {STAGE_1} with --overwrite"
        )
    if (a.mean, a.std, a.fingerprint, a.conditions) != (b.mean, b.std, b.fingerprint, b.conditions):
        raise DataError(
            f"train and val in {train.path.parent} come from different extractions; {STAGE_1} with --overwrite"
        )


def _users_by_label(train: LatentFile) -> list[int]:
    """Return the user id of each label; labels must be 0, 1, ... without gaps."""
    labels = np.unique(train.labels)
    if labels[0] != 0 or labels[-1] != len(labels) - 1:
        raise DataError(
            f"{train.path}: labels must be 0 to (number of users - 1) without a gap; {len(labels)} different ones lie "
            f"between {labels[0]} and {labels[-1]}"
        )
    users = []
    for label in labels:
        found = np.unique(train.user_ids[train.labels == label])
        if len(found) != 1 or found[0] < 1 or found[0] in users:
            raise DataError(
                f"{train.path}: label {label} must be one user, numbered from 1; user_ids say {found.tolist()}"
            )
        users.append(int(found[0]))
    return users


def _check_users(val: LatentFile, users: Sequence[int]) -> None:
    wrong = (val.labels < 0) | (val.labels >= len(users))
    if wrong.any():
        raise DataError(
            f"{val.path}: label {val.labels[wrong][0]} is out of range; train.safetensors has {len(users)} users"
        )
    if (np.asarray(users)[val.labels] != val.user_ids).any():
        raise DataError(f"{val.path}: labels stand for other users than in train.safetensors; {STAGE_1} again")


def _check_nobody_missing(val: LatentFile, users: Sequence[int]) -> None:
    missing = [str(user_id) for label, user_id in enumerate(users) if label not in val.labels]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{val.path} has no latents of user {', '.join(missing[:_SHOWN])}{more}; add images and extract again"
        )
