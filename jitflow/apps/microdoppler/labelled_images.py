"""Images with the user of each: generated, training and held-out sets, read from folders and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jitflow.apps.microdoppler.arrays.description import ArrayDescription
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.sampling import UserSamples
from jitflow.apps.microdoppler.user_files import EXTENSIONS
from jitflow.apps.microdoppler.user_images import UserImage, UserImages, read_user_image
from jitflow.data.image_file import open_image
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.evaluation.features import check_images
from jitflow.io.file_tree import is_left_out
from jitflow.io.files import read_json, user_path
from jitflow.io.progress import meter

_GENERATED_NAME = re.compile(r".*user(\d+)_(\d+)")
# Distances between images need two of each user.
_LEAST_PER_USER = 2


class LabelledImages(NamedTuple):
    """Images and the user of each.

    Attributes:
        images: Shape ``(N, C, H, W)``, uint8; C 1 or 3; time to the right, velocity upwards.
        labels: Shape ``(N,)``, whole numbers from 0.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageSets:
    """Generated images, and the real ones that they are compared with.

    Attributes:
        generated: Generated images, with the users they were made for.
        real_train: The images that the generator was trained on.
        real_val: Real images that it was not trained on.
        user_ids: Ids of the K users, in the order of their labels.
    """

    generated: LabelledImages
    real_train: LabelledImages
    real_val: LabelledImages
    user_ids: Sequence[int]

    def check(self) -> None:
        """Check sizes, labels and the number of images of each user.

        Raises:
            ConfigError: If shapes, sizes or labels do not fit together.
            DataError: If a user has fewer than 2 images in one of the three sets.
        """
        user_ids = self.user_ids
        if len(user_ids) < 2 or len(set(user_ids)) != len(user_ids):
            raise ConfigError(f"user_ids must name at least 2 users, each once; got {list(user_ids)}")
        sets = {"generated": self.generated, "real training": self.real_train, "real held-out": self.real_val}
        shapes = {}
        for name, (images, labels) in sets.items():
            if not len(images):
                raise DataError(f"there are no {name} images")
            check_labels(images, labels, len(user_ids))
            shapes[name] = tuple(images.shape[1:])
            check_counts(name, labels, user_ids)
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ConfigError(f"all images must have the same size and channels (C, H, W); got {listed}")


def check_labels(images: Tensor, labels: Tensor, num_users: int) -> None:
    """Raise ConfigError or DataError unless labels match their images.

    Args:
        images: Shape ``(N, C, H, W)``, uint8.
        labels: Shape ``(N,)``, whole numbers.
        num_users: Number of users.

    Raises:
        ConfigError: If shapes or types are wrong, or a label is not in ``[0, num_users)``.
        DataError: If there are no images.
    """
    check_images(images)
    if labels.dtype.is_floating_point or labels.shape != (len(images),):
        raise ConfigError(
            f"labels must be whole numbers of shape ({len(images)},), one for each image; got {labels.dtype}, "
            f"{tuple(labels.shape)}"
        )
    if not len(labels):
        raise DataError("there are no images")
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_users:
        raise ConfigError(f"labels must lie in [0, {num_users}); got {int(labels.min())} to {int(labels.max())}")


def check_counts(name: str, labels: Tensor, user_ids: Sequence[int]) -> None:
    """Refuse a set in which a user has fewer than two images.

    Args:
        name: Name of the set, for the message.
        labels: User of each image, shape ``(N,)``.
        user_ids: Ids of the users, in the order of their labels.

    Raises:
        DataError: If a user has fewer than two.
    """
    counts = torch.bincount(labels, minlength=len(user_ids))
    few = [(user_id, int(n)) for user_id, n in zip(user_ids, counts, strict=True) if n < _LEAST_PER_USER]
    if few:
        listed = ", ".join(f"user {user_id} ({n})" for user_id, n in few[:5]) + (" ..." if len(few) > 5 else "")
        raise DataError(
            f"at least {_LEAST_PER_USER} {name} images of each user are needed; too few of {listed}. "
            f"{'Generate more' if name == 'generated' else 'Add some'}, or leave the users out of the data"
        )


def read_scale(folder: str | Path) -> ArrayScale | None:
    """Read the scale of generated spectrogram arrays from the record beside them; None for pictures.

    Args:
        folder: Folder of generated spectrograms.

    Raises:
        DataError: If there are arrays without a record.
    """
    root = user_path(folder)
    path = root / UserSamples.record_name
    record = read_json(path) if path.is_file() else {}
    arrays = record.get("settings", {}).get("arrays") if isinstance(record, dict) else None
    if arrays is not None:
        return ArrayScale.of_record(arrays, source=path)
    if root.is_dir() and any(_GENERATED_NAME.fullmatch(path.stem) for path in root.glob("*.npz")):
        raise DataError(f"{root} has generated arrays and no {path.name}, which says their range; copy it beside them")
    return None


def read_generated(folder: str | Path, user_ids: Sequence[int], scale: ArrayScale | None = None) -> LabelledImages:
    """Read generated images, ``..._user01_001.png`` and so on, or arrays; other files stay unread.

    Args:
        folder: Where they are.
        user_ids: Ids of the users, in the order of their labels.
        scale: Scale of generated arrays, which are read in place of their previews; None for pictures.

    Returns:
        Images, shape ``(M, 3, H, W)``, uint8, by user and number; of arrays their levels, grey, ``(M, 1, H, W)``;
        labels, shape ``(M,)``, int64.

    Raises:
        MissingFileError: If the folder does not exist.
        DataError: If there are none, one is of a user that the data lacks, is damaged, or they differ in size.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise MissingFileError(f"generated_dir {folder} is not a folder; name the one that stage 3 wrote")
    suffixes = EXTENSIONS if scale is None else (".npz",)
    read = _read_rgb if scale is None else _as_generated(scale).read_picture
    files = sorted(
        (int(match[1]), int(match[2]), path)
        for path in root.iterdir()
        if (match := _GENERATED_NAME.fullmatch(path.stem)) and path.suffix.lower() in suffixes
        if not is_left_out(path.name)
    )
    if not files:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:3]) or "nothing"
        raise DataError(f"{folder} has no generated images such as micro_doppler_user01_001.png; it holds {found}")
    unknown = sorted({user_id for user_id, _, _ in files} - set(user_ids))
    if unknown:
        raise DataError(
            f"{folder} has images of user {', '.join(map(str, unknown))}, of whom the data has none; "
            "name the data that the model was trained on"
        )
    images: list[Tensor] = []
    with meter("reading generated images", len(files)) as progress:
        for _, _, path in files:
            image = read(path)
            if images and image.shape != images[0].shape:
                raise DataError(
                    f"generated images differ in size: {path.name} is {image.shape[2]}x{image.shape[1]}, "
                    f"{files[0][2].name} {images[0].shape[2]}x{images[0].shape[1]}; keep one size in a folder"
                )
            images.append(image)
            progress.update(len(images))
    label_of = {user_id: label for label, user_id in enumerate(user_ids)}
    labels = torch.tensor([label_of[user_id] for user_id, _, _ in files])
    return LabelledImages(torch.stack(images), labels)


def _read_rgb(path: Path) -> Tensor:
    return torch.from_numpy(np.array(open_image(str(path), channels=3))).permute(2, 0, 1)


def _as_generated(scale: ArrayScale) -> ArrayScale:
    """Return the scale that reads generated arrays: their names and peaks are ours, not the data set's."""
    own = ArrayDescription(first_row="lowest" if scale.lowest_first else "highest")
    return replace(scale, stated=own)


def read_real(
    found: UserImages, size: tuple[int, int], scale: ArrayScale | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Read real images at the size of generated ones.

    Args:
        found: The data set.
        size: Height and width in pixels.
        scale: Scale of generated arrays, by which real ones are read; None for pictures.

    Returns:
        The images to train on, and the held-out ones.

    Raises:
        DataError: If an image is damaged, or the data are arrays and the model's samples pictures, or the reverse.
    """
    if (found.arrays is None) != (scale is None):
        raise DataError(
            f"{found.root} holds {'pictures' if found.arrays is None else 'arrays'} and the model draws "
            f"{'pictures' if scale is None else 'arrays'}; name the data that it was trained on"
        )
    with meter("reading real images", len(found.train) + len(found.val)) as progress:

        def read(images: Sequence[UserImage], before: int) -> LabelledImages:
            # Filled in place: the images of a whole set shall not be in memory twice.
            channels = 1 if scale is not None and scale.num_channels == 1 else 3
            pixels = torch.empty(len(images), channels, *size, dtype=torch.uint8)
            for i, image in enumerate(images):
                if scale is not None:
                    pixels[i] = scale.read_picture(image.path)
                else:
                    pixels[i] = torch.from_numpy(read_user_image(image.path, size))
                progress.update(before + i + 1)
            return LabelledImages(pixels, torch.tensor([image.label for image in images]))

        return read(found.train, 0), read(found.val, len(found.train))
