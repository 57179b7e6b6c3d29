"""Data set of numbered users: their images or spectrogram arrays, split into training and validation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jitflow.apps.microdoppler.arrays.colour_maps import recognise_colour_map
from jitflow.apps.microdoppler.arrays.description import (
    AUTO,
    DESCRIPTION_NAME,
    NONE,
    ArrayDescription,
    read_description,
)
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.condition_columns import find_conditions, label_codes
from jitflow.apps.microdoppler.manifest import find_manifest, read_manifest
from jitflow.apps.microdoppler.user_files import EXTENSIONS, LAYOUT, UserFile, find_files, listed, sample_suffixes
from jitflow.apps.microdoppler.user_split import Users, split_users
from jitflow.core.condition_table import ConditionTable
from jitflow.data.crop import height_and_width
from jitflow.data.image_file import open_image
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.files import user_path

log = logging.getLogger(__name__)

# Bytes at the end of a compressed image that distinguish it from others of the same size.
_TAIL_BYTES = 1024


@dataclass(frozen=True)
class UserImage:
    """An image or spectrogram array of a user.

    Attributes:
        path: The file.
        user_id: Number of the user, from 1.
        label: Label of the user: its index among all users, from 0.
        origin: Session, recording and window that it is from, as far as they are known.
    """

    path: Path
    user_id: int
    label: int
    origin: UserFile


@dataclass(frozen=True)
class UserImages:
    """The training and validation images of a data set of users.

    Attributes:
        root: Its folder.
        user_ids: Numbers of the users, ascending; a user's label is the index in this list.
        train: Training images, sorted by user and name.
        val: Held-out images, sorted by user and name; every user has some.
        arrays: What the numbers of arrays mean; None for pictures, whose colours are the data.
        group: What training and validation should not share, such as ``session``; empty if it is unknown.
        conditions: Named conditions besides the user; None for none.
    """

    root: Path
    user_ids: tuple[int, ...]
    train: tuple[UserImage, ...]
    val: tuple[UserImage, ...]
    arrays: ArrayDescription | None = None
    group: str = ""
    conditions: ConditionTable | None = None

    def of_split(self, split: str) -> tuple[UserImage, ...]:
        """Return the pictures of ``"train"`` or ``"val"``."""
        return self.train if split == "train" else self.val

    def condition_codes(self, split: str) -> np.ndarray:
        """Return the codes of the conditions of a split's images, shape ``(N, K)``, float32."""
        assert self.conditions is not None
        return label_codes([image.origin for image in self.of_split(split)], self.conditions)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the data set: labels, names, sizes and last bytes of the files, their split.

        It does not depend on the folder's location, and costs one small read per file.
        """
        digest = hashlib.sha256()
        if self.arrays is not None:
            digest.update(json.dumps(self.arrays.to_record(), sort_keys=True).encode())
        if self.conditions is not None:
            digest.update(json.dumps(self.conditions.to_record()).encode())
        for split, images in (("train", self.train), ("val", self.val)):
            if self.conditions is not None:
                digest.update(self.condition_codes(split).tobytes())
            for image in images:
                size = image.path.stat().st_size
                with image.path.open("rb") as file:
                    file.seek(max(0, size - _TAIL_BYTES))
                    tail = file.read()
                inside = image.path.is_relative_to(self.root)
                name = (image.path.relative_to(self.root) if inside else image.path).as_posix()
                digest.update(f"{split}\0{name}\0{image.user_id}\0{image.label}\0{size}\0".encode())
                digest.update(tail)
        return digest.hexdigest()


def spread_indices(num: int, most: int) -> list[int]:
    """Choose at most ``most`` indices of ``num`` images, evenly spread from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, num - 1, min(num, most)).tolist()})


def find_user_images(data_dir: str | Path, *, val_fraction: float | None = None, seed: int = 42) -> UserImages:
    """Find the images or arrays of a data set and their users.

    Args:
        data_dir: Folder with ``train/`` and ``val/``, or one folder that is split here; or a manifest (``.csv``,
            ``.parquet``), or the folder of a ``manifest.csv`` (see :func:`read_manifest`).
        val_fraction: Share of each user's images to hold out if there is no ``val/``, in (0, 1); at least one image for
            validation and one for training. Sessions and recordings stay whole where they are known.
        seed: Seed of the split.

    Returns:
        The images. Other files are skipped, and their number is logged.

    Raises:
        MissingFileError: If the folder does not exist.
        ConfigError: If ``val_fraction`` is missing, out of range, or given although there is a ``val/``.
        DataError: If there are no images, the layout differs, or a user lacks training or validation images.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must lie in (0, 1); got {val_fraction}")
    given = user_path(data_dir)
    manifest = find_manifest(given)
    root = given if manifest is None else manifest.parent
    if manifest is None and not root.is_dir():
        raise MissingFileError(f"data_dir {root} is not a folder; {LAYOUT}")
    description = read_description(root)
    if manifest is not None:
        if not manifest.is_file():
            raise MissingFileError(f"data_dir {manifest} does not exist; name a folder or a manifest")
        parts, group = read_manifest(manifest, description or ArrayDescription())
        arrays = _is_array_set(parts, described=description is not None)
    else:
        suffixes, arrays = sample_suffixes(root, described=description is not None)
        parts = _find_parts(root, suffixes)
        group = "" if description is not None and description.group == NONE else _group_of_names(parts)
    train, val = _split_parts(manifest or root, parts, val_fraction, seed, group)
    user_ids = tuple(sorted(train))
    sets = [_in_order(files, user_ids) for files in (train, val)]
    stated = None if description is None else description.conditions
    if stated and manifest is None:
        raise ConfigError(
            f"{root / DESCRIPTION_NAME}: conditions are columns of a manifest, and there is none; write a manifest.csv "
            f"with the columns path, user, {', '.join(stated)}"
        )
    conditions = find_conditions((image.origin for images in sets for image in images), stated)
    images = UserImages(root, user_ids, sets[0], sets[1], None, group, conditions)
    if arrays:
        return dataclasses.replace(images, arrays=description or ArrayDescription())
    return images if description is None else dataclasses.replace(images, arrays=_as_levels(images, description))


@dataclass(frozen=True)
class ImageReader:
    """Reader of a data set's files as images for the codec.

    Attributes:
        img_size: Side of the images in pixels.
        scale: Scale of spectrogram arrays; None reads pictures as they are.
    """

    img_size: int
    scale: ArrayScale | None = None

    def __call__(self, path: Path) -> np.ndarray:
        """Read a file, shape ``(3, H, W)``, 0 to 255: uint8 from a picture, float32 from an array."""
        if self.scale is None:
            return read_user_image(path, self.img_size)
        return self.scale.read(path, self.img_size)

    def pixels(self, path: Path) -> Tensor:
        """Read a file as a batch of one image, shape ``(1, 3, H, W)``, uint8; arrays are rounded."""
        image = self(path)
        return torch.from_numpy(image if image.dtype == np.uint8 else image.round().astype(np.uint8))[None]


def read_user_image(path: str | Path, img_size: int | tuple[int, int] = 256) -> np.ndarray:
    """Read an image and resize it, without crop or mirroring, since its axes have a meaning.

    Args:
        path: The file; grey, palette, 16-bit, CMYK and transparent images become RGB.
        img_size: Side in pixels, or (height, width).

    Returns:
        Shape ``(3, H, W)``, uint8.

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    height, width = height_and_width(img_size)
    image = open_image(str(path), channels=3)
    if image.size != (width, height):
        # Pillow widens the filter when it shrinks an image, which avoids aliasing.
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _find_parts(root: Path, suffixes: tuple[str, ...]) -> dict[str, Users]:
    """Find the files of ``train`` and ``val``, or of ``""`` if they are to be split."""
    has_train, has_val = (root / "train").is_dir(), (root / "val").is_dir()
    if has_val and not has_train:
        raise DataError(f"data_dir {root} has val/ but no train/; {LAYOUT}")
    if has_val:
        return {split: find_files(root / split, suffixes) for split in ("train", "val")}
    return {"": find_files(root / "train" if has_train else root, suffixes)}


def _split_parts(
    source: Path, parts: Mapping[str, Users], val_fraction: float | None, seed: int, group: str
) -> tuple[Users, Users]:
    """Return the training and the validation files of each user."""
    if "val" in parts:
        if val_fraction is not None:
            raise ConfigError(f"{source} has val/ already; leave out --val_fraction")
        _check_same_users(source, parts["train"], parts["val"])
        return parts["train"], parts["val"]
    if val_fraction is None:
        raise ConfigError(f"{source} has no val/; add it, or pass --val_fraction 0.2 to hold out a part of its files")
    return split_users(parts[""], val_fraction, seed, group)


def _group_of_names(parts: Mapping[str, Users]) -> str:
    """Name what the files' names tell of their origin: sessions, else recordings, else nothing."""
    files = [file for users in parts.values() for found in users.values() for file in found]
    if any(file.session for file in files):
        return "session"
    return "recording" if any(file.recording for file in files) else ""


def _is_array_set(parts: Mapping[str, Users], *, described: bool) -> bool:
    """Whether the files of a manifest are arrays; pictures are if they are described, see :func:`_as_levels`."""
    kinds = {
        file.path.suffix.lower() in EXTENSIONS for users in parts.values() for found in users.values() for file in found
    }
    return kinds == {False} or (described and kinds == {True, False})


def _as_levels(images: UserImages, description: ArrayDescription) -> ArrayDescription | None:
    """Describe pictures as levels of their colour map; None if they stay pictures, since it is none that is known."""
    name = description.colour_map
    if name == AUTO:
        path = images.train[0].path
        found = recognise_colour_map(np.asarray(open_image(str(path), channels=3)))
        if found is None:
            log.warning(
                "the colours of %s are of no known colour map: the pictures are learned as they are, not as levels "
                "(state colour_map in %s, or crop axes and margins away)",
                *(path, DESCRIPTION_NAME),
            )
        else:
            log.info("the pictures are coloured by %s, which is inverted to levels", found)
        name = found or NONE
    return None if name == NONE else dataclasses.replace(description, colour_map=name)


def _check_same_users(
    root: Path, train: Mapping[int, Sequence[UserFile]], val: Mapping[int, Sequence[UserFile]]
) -> None:
    for missing, there in (("val", "train"), ("train", "val")):
        users = sorted(set(train) - set(val) if missing == "val" else set(val) - set(train))
        if users:
            raise DataError(
                f"{root}: user {listed(map(str, users))} has images in {there}/ and none in {missing}/; add some, or "
                "remove val/ and pass --val_fraction"
            )


def _in_order(users: Mapping[int, Sequence[UserFile]], user_ids: Sequence[int]) -> tuple[UserImage, ...]:
    return tuple(
        UserImage(file.path, user_id, label, file) for label, user_id in enumerate(user_ids) for file in users[user_id]
    )
