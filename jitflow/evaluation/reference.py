"""Reference of a score: features or statistics of real images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from jitflow.data.crop import center_crop_arr, height_and_width
from jitflow.data.digits import DigitsDataModule
from jitflow.data.folder_scan import SUFFIXES
from jitflow.data.image_file import open_image, to_mode
from jitflow.data.loader import WatchedLoader, worker_arguments
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.frechet import Statistics
from jitflow.evaluation.moments import Moments
from jitflow.evaluation.nearest import thumbnails_of
from jitflow.evaluation.statistics_file import read_statistics
from jitflow.host import full_float32
from jitflow.io.file_tree import list_tree
from jitflow.io.files import file_checksum, user_path
from jitflow.io.npz_file import iter_npz_rows, npz_names
from jitflow.training.samples import GRID_NAME

IMAGES_ENTRY = "arr_0"
BUILT_IN = {"digits": "train", "digits:val": "val"}
VALIDATION = {"digits": "digits:val"}
"""Validation data that belongs to a reference of training data."""


@dataclass
class Reference:
    """Statistics, and possibly features, of real images.

    Attributes:
        statistics: Mean and covariance.
        record: Origin of the images, for the protocol card.
        features: Shape ``(N, D)``, float32, for scores of single images; None if not kept.
        thumbnails: Of all images, shape ``(N, C, S, S)``, uint8; None for statistics.
        images: The images themselves; None for statistics.
    """

    statistics: Statistics
    record: dict[str, Any] = field(default_factory=dict)
    features: Tensor | None = None
    thumbnails: Tensor | None = None
    images: RealImages | None = None

    @property
    def num_images(self) -> int | None:
        """Number of images the statistics were made of; None if it is not known."""
        return self.record.get("num_images")

    def spread(self, num: int) -> Tensor:
        """Return the features of ``num`` images that are spread evenly over all, shape ``(num, D)``."""
        assert self.features is not None
        return self.features[torch.linspace(0, len(self.features) - 1, num).round().long()]


class ImageFiles(Dataset[Tensor]):
    """Data set of all images below a folder, centre-cropped as in training, not flipped.

    Args:
        folder: Searched recursively, in the order of names; the overview grid in a folder of samples is skipped.
        img_size: Side in pixels, or (height, width).
        channels: 3 for colour, 1 for grey.

    Raises:
        MissingFileError: If there is no such folder.
        DataError: If there is no image in it.
    """

    def __init__(self, folder: str | Path, img_size: int | tuple[int, int], channels: int = 3) -> None:
        folder = user_path(folder)
        if not folder.is_dir():
            raise MissingFileError(f"{folder} is not a folder of images")
        tree = list_tree(folder)
        tree.log_left_out(SUFFIXES)
        self.files = [path for path in tree.files(SUFFIXES) if not _is_sample_grid(path)]
        if not self.files:
            raise DataError(f"there are no images in {folder} (looked for {', '.join(SUFFIXES)})")
        self.img_size = img_size
        self.channels = channels
        self._to_tensor = transforms.PILToTensor()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image = open_image(str(self.files[index]), channels=self.channels)
        return self._to_tensor(center_crop_arr(image, self.img_size))


@dataclass(frozen=True)
class RealImages:
    """Real images that are read again whenever they are needed: built-in scans, a folder, or an ``.npz``.

    Attributes:
        spec: ``digits``, ``digits:val``, a folder of images, or an ``.npz`` of them.
        img_size: (height, width) in pixels.
        channels: 3 for colour, 1 for grey.
        batch_size: Images per batch.
    """

    spec: str
    img_size: tuple[int, int]
    channels: int
    batch_size: int = 64

    @property
    def exist(self) -> bool:
        """Whether these are images, and not the statistics of some."""
        path = user_path(self.spec)
        return self.spec in BUILT_IN or path.is_dir() or _holds_images(path)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches of images, each ``(B, C, H, W)``, uint8."""
        path = user_path(self.spec)
        if self.spec in BUILT_IN:
            data = DigitsDataModule(self.img_size)
            data.setup("fit")
            chosen = data.dataset_train if BUILT_IN[self.spec] == "train" else data.dataset_val
            yield from chosen.images.split(self.batch_size)
        elif path.is_dir():
            yield from image_batches(path, self.img_size, self.channels, batch_size=self.batch_size)[0]
        else:
            yield from npz_image_batches(path, self.img_size, self.channels, self.batch_size)

    def pick(self, indices: Sequence[int]) -> Tensor:
        """Read images by their places in the order of the batches, shape ``(len(indices), C, H, W)``, uint8."""
        path = user_path(self.spec)
        if self.spec not in BUILT_IN and path.is_dir():
            files = ImageFiles(path, self.img_size, self.channels)
            return torch.stack([files[index] for index in indices])
        found: dict[int, Tensor] = {}
        start = 0
        for batch in self:
            found |= {index: batch[index - start] for index in indices if start <= index < start + len(batch)}
            start += len(batch)
        return torch.stack([found[index] for index in indices])


def _is_sample_grid(path: Path) -> bool:
    """Whether a file is the overview grid of a folder of samples."""
    return path.name.endswith(GRID_NAME) and next(path.parent.glob("*.json"), None) is not None


def reference_features(
    batches: Iterable[Tensor],
    extractors: Mapping[str, FeatureExtractor],
    *,
    device: str,
    on_images: Callable[[int], None] | None = None,
) -> tuple[dict[str, Reference], str]:
    """Extract the features of real images, in one pass over them for all extractors.

    Args:
        batches: Images, each ``(B, C, H, W)``, uint8.
        extractors: The feature extractors by name.
        device: Device of the extractors.
        on_images: Called with the number of images done.

    Returns:
        Statistics and features of the images under each extractor; SHA-256 of all pixels in order.
    """
    moments = {name: Moments(extractor.to(device).dim) for name, extractor in extractors.items()}
    kept: dict[str, list[Tensor]] = {name: [] for name in extractors}
    done, digest = 0, hashlib.sha256()
    for images in batches:
        digest.update(images.contiguous().numpy().tobytes())
        for name, extractor in extractors.items():
            with full_float32():
                features = extractor(images.to(device)).features.float().cpu()
            moments[name].update(features)
            kept[name].append(features)
        done += len(images)
        if on_images is not None:
            on_images(done)
    record = {"num_images": done, "pixels_sha256": digest.hexdigest()}
    found = {
        name: Reference(Statistics(found.mean, found.covariance), dict(record), torch.cat(kept[name]))
        for name, found in moments.items()
    }
    return found, digest.hexdigest()


def image_batches(
    folder: str | Path, img_size: int | tuple[int, int], channels: int, *, batch_size: int = 64, num_workers: int = 0
) -> tuple[Iterator[Tensor], int]:
    """Read the images of a folder in batches; returns the batches and the number of images."""
    dataset = ImageFiles(folder, img_size, channels)
    height, width = height_and_width(img_size)
    workers = worker_arguments(num_workers, batch_size * channels * height * width) if num_workers else {}
    loader = WatchedLoader(dataset, batch_size=batch_size, **workers)
    loader.title = "image"
    return iter(loader), len(dataset)


def _holds_images(path: Path) -> bool:
    """Whether an ``.npz`` holds images rather than statistics."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    names = set(npz_names(path, what="statistics file"))
    return IMAGES_ENTRY in names and not {"mu", "sigma"} <= names


def npz_image_batches(
    path: str | Path, img_size: int | tuple[int, int], channels: int, batch_size: int = 64
) -> Iterator[Tensor]:
    """Read the images of an ``.npz`` in batches, centre-cropped as those of a folder; it may exceed the memory.

    Args:
        path: The file; ``arr_0`` holds images, shape ``(N, H, W, 3)`` or ``(N, H, W, 1)``, uint8.
        img_size: Side in pixels, or (height, width).
        channels: 3 for colour, 1 for grey.
        batch_size: Images at a time.

    Yields:
        Images, each ``(B, C, H, W)``, uint8.

    Raises:
        ConfigError: If the file is damaged or holds something else.
    """
    to_tensor = transforms.PILToTensor()
    for rows in iter_npz_rows(path, IMAGES_ENTRY, batch_size, what="file of images"):
        if rows.ndim != 4 or rows.shape[-1] not in (1, 3) or rows.dtype != np.uint8:
            raise ConfigError(
                f"{path}: {IMAGES_ENTRY} must be images of shape (N, height, width, 3) of bytes (uint8); got "
                f"{rows.dtype} with rows of shape {rows.shape[1:]}"
            )
        opened = (Image.fromarray(row if row.shape[-1] == 3 else row[..., 0]) for row in rows)
        images = [to_mode(image, "RGB" if channels == 3 else "L") for image in opened]
        yield torch.stack([to_tensor(center_crop_arr(image, img_size)) for image in images])


def load_reference(spec: str | Path, extractor: FeatureExtractor, **settings: Any) -> Reference:
    """Load the reference of a score under one extractor; arguments as :func:`load_references`."""
    return load_references(spec, {"": extractor}, **settings)[""]


def load_references(
    spec: str | Path,
    extractors: Mapping[str, FeatureExtractor],
    *,
    img_size: tuple[int, int],
    channels: int,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, Reference]:
    """Load the reference of a score from statistics, a folder of images or built-in scans.

    Args:
        spec: An ``.npz`` of ``jitflow stats``, of the JiT release or of torch-fidelity, or of images (``arr_0``, as
            ``jitflow evaluate --npz`` and ADM's tools write it); a folder of images; ``digits`` or ``digits:val`` for
            the built-in scans.
        extractors: The feature extractors by name.
        img_size: (height, width) in pixels.
        channels: 3 for colour, 1 for grey.
        device: Device of the extractors.
        batch_size: Images per batch.

    Returns:
        The reference under each extractor.

    Raises:
        ConfigError: If the statistics are of another dimension or extractor.
        MissingFileError: If there is neither such a file nor such a folder.
    """
    images = RealImages(str(spec), img_size, channels, batch_size)
    if not images.exist:
        made_for = {"img_size": img_size[0], "channels": channels}
        return {name: _from_file(user_path(spec), extractor, made_for) for name, extractor in extractors.items()}
    thumbnails: list[Tensor] = []

    def batches() -> Iterator[Tensor]:
        for batch in images:
            thumbnails.append(thumbnails_of(batch))
            yield batch

    found, _ = reference_features(batches(), extractors, device=device)
    small = torch.cat(thumbnails)
    for reference in found.values():
        reference.record = {"path": str(spec), **reference.record}
        reference.thumbnails, reference.images = small, images
    return found


def _from_file(path: Path, extractor: FeatureExtractor, made_for: Mapping[str, Any]) -> Reference:
    statistics, num_images, features = read_statistics(path, extractor, made_for)
    record: dict[str, Any] = {"path": path.name, "checksum": file_checksum(path)}
    if num_images is not None:
        record["num_images"] = num_images
    return Reference(statistics, record, features)
