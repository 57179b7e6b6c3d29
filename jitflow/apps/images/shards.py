"""Data sets of shards: stored centre crops, memory-mapped and copied into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jitflow.apps.images.shard_record import (
    FORMAT,
    MANIFEST,
    PREPARE_AGAIN,
    UNFINISHED,
    VERSION,
    ShardRecord,
    check_size,
)
from jitflow.errors import DataError, JitflowError
from jitflow.io.array_file import open_arrays
from jitflow.io.files import read_json, user_path


@dataclass(frozen=True)
class ShardFolder:
    """A prepared folder of shards, as its manifest describes it.

    Args:
        folder: The folder.
        img_size: Height and width of the images in pixels.
        channels: 3 for colour, 1 for greyscale.
        classes: Names of the classes by label.
        splits: Shards by split, in order.
    """

    folder: Path
    img_size: tuple[int, int]
    channels: int
    classes: tuple[str, ...]
    splits: dict[str, tuple[ShardRecord, ...]]


def is_shard_folder(folder: str | Path) -> bool:
    """Whether a folder holds prepared shards; raise DataError if its preparation is unfinished."""
    folder = user_path(folder)
    if (folder / MANIFEST).is_file():
        return True
    if (folder / UNFINISHED).is_dir():
        raise DataError(f"the preparation of {folder} is unfinished; {PREPARE_AGAIN} to resume it")
    return False


def open_shard_folder(folder: str | Path) -> ShardFolder:
    """Read the manifest of a prepared folder and check the size of every shard.

    Args:
        folder: The folder.

    Returns:
        The folder's description.

    Raises:
        DataError: If the manifest is damaged or of another kind, or a shard is missing or has another size.
    """
    folder = user_path(folder)
    path = folder / MANIFEST
    try:
        content: Any = read_json(path)
        kind, version = content["format"], content["version"]
        if kind != FORMAT or version != VERSION:
            raise DataError(f"{path} is of the format {kind!r} {version}, not {FORMAT!r} {VERSION}")
        height, width = content["img_size"]
        found = ShardFolder(
            folder,
            (int(height), int(width)),
            int(content["channels"]),
            tuple(content["classes"]),
            {
                split: tuple(ShardRecord.from_dict(record) for record in entry["shards"])
                for split, entry in content["splits"].items()
            },
        )
    except DataError:
        raise
    except (JitflowError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not a manifest of prepared images ({error}); {PREPARE_AGAIN}") from None
    for records in found.splits.values():
        for record in records:
            check_size(folder, record)
    return found


class ShardImages(Dataset[tuple[Tensor, int]]):
    """Data set of the images of one split, without random transforms.

    Args:
        source: The prepared folder.
        split: ``train`` or ``val``.
        index: Indices of the images to use, shape ``(M,)``, int64; None for all.

    Attributes:
        classes: Name of each label.
        targets: Labels, shape ``(N,)``, int64.

    Raises:
        DataError: If a shard is visibly damaged without reading its images.
    """

    def __init__(self, source: ShardFolder, split: str, index: np.ndarray | None = None) -> None:
        self.source = source
        self.classes = list(source.classes)
        self._shape = (source.channels, *source.img_size)
        self._records = source.splits[split]
        self._maps: list[np.ndarray] = []
        labels = self._map()
        self._index = np.arange(len(labels)) if index is None else index
        self._ends = np.cumsum([record.num_images for record in self._records], dtype=np.int64)
        self.targets = torch.from_numpy(labels[self._index])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = self.read_batch(torch.tensor([index]))
        return images[0], int(labels[0])

    def __getstate__(self) -> dict[str, Any]:
        # Drop the mapping: pickling it would copy its whole content to the other process.
        return {**self.__dict__, "_maps": []}

    def read_batch(self, index: Tensor, mirrored: Sequence[bool] | None = None) -> tuple[Tensor, Tensor]:
        """Copy images from the shards into a new batch.

        Args:
            index: Indices of the images, shape ``(B,)``, int64.
            mirrored: Which of them to mirror; None for none.

        Returns:
            Images, shape ``(B, C, H, W)``, uint8, and labels, shape ``(B,)``, int64.
        """
        if not self._maps:
            self._map()
        positions = self._index[index.numpy()]
        shards = np.searchsorted(self._ends, positions, side="right")
        rows = positions - np.where(shards > 0, self._ends[shards - 1], 0)
        # numpy requests huge pages, torch does not: page faults of 4 KiB take three times as long as the copy.
        pixels = np.empty((len(positions), *self._shape), np.uint8)
        batch = torch.from_numpy(pixels)
        for position, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            pixels[position] = self._maps[shard][row]
            if mirrored is not None and mirrored[position]:
                # While the image is in the core's cache.
                batch[position] = batch[position].flip(-1)
        return batch, self.targets[index]

    def _map(self) -> np.ndarray:
        """Map every shard and return all labels."""
        labels = [np.empty(0, np.int64)]
        for record in self._records:
            path = self.source.folder / record.file
            arrays, _ = open_arrays(path)
            images = arrays.get("images")
            expected = (record.num_images, *self._shape)
            if images is None or images.shape != expected or images.dtype != np.uint8 or "labels" not in arrays:
                raise DataError(f"{path} does not hold the images that {MANIFEST} says; remove it and {PREPARE_AGAIN}")
            self._maps.append(images)
            labels.append(np.asarray(arrays["labels"]))
        every = np.concatenate(labels)
        if every.size and not 0 <= every.min() <= every.max() < len(self.classes):
            raise DataError(f"the shards in {self.source.folder} have labels without a class; {PREPARE_AGAIN}")
        return every


class MirroredImages(Dataset[tuple[Tensor, int]]):
    """Data set of prepared images, each mirrored with probability one half.

    A sample is mirrored as by torchvision's ``RandomHorizontalFlip`` with the same seed.

    Args:
        images: The images.
    """

    def __init__(self, images: ShardImages) -> None:
        self.images = images
        self.classes = images.classes
        self.targets = images.targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return (image.flip(-1) if torch.rand(1) < 0.5 else image), label

    def read_seeded_batch(self, index: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the images ``(B, C, H, W)`` and labels ``(B,)`` at the indices ``(B,)``, mirrored by their seeds."""
        generator = torch.Generator()
        mirrored = [bool(torch.rand(1, generator=generator.manual_seed(seed)) < 0.5) for seed in seeds]
        return self.images.read_batch(index, mirrored)


class TransformedImages(Dataset[tuple[Any, int]]):
    """Data set of prepared images with a user's own transform, one image at a time.

    Args:
        images: The images.
        transform: Function from a PIL image of the prepared size to a tensor.
    """

    def __init__(self, images: ShardImages, transform: Callable[[Image.Image], Any]) -> None:
        self.images = images
        self.transform = transform
        self.classes = images.classes
        self.targets = images.targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.images[index]
        pixels = image.numpy()
        return self.transform(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))), label
