"""Reference of a score: features or statistics of real images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
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
from jitflow.evaluation.frechet import Statistics, load_statistics
from jitflow.evaluation.moments import Moments
from jitflow.host import full_float32
from jitflow.io.file_tree import list_tree
from jitflow.io.files import file_checksum, user_path
from jitflow.io.npz_file import iter_npz_rows, npz_names, read_npz
from jitflow.training.samples import GRID_NAME

IMAGES_ENTRY = "arr_0"
BUILT_IN = {"digits": "train", "digits:val": "val"}


@dataclass
class Reference:
    """Statistics, and possibly features, of real images.

    Attributes:
        statistics: Mean and covariance.
        record: Origin of the images, for the protocol card.
        features: Shape ``(N, D)``, float32, for scores of single images; None if not kept.
    """

    statistics: Statistics
    record: dict[str, Any] = field(default_factory=dict)
    features: Tensor | None = None


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


def _is_sample_grid(path: Path) -> bool:
    """Whether a file is the overview grid of a folder of samples."""
    return path.name.endswith(GRID_NAME) and next(path.parent.glob("*.json"), None) is not None


def reference_features(
    batches: Iterator[Tensor],
    extractor: FeatureExtractor,
    *,
    device: str,
    on_images: Callable[[int], None] | None = None,
) -> tuple[Moments, Tensor, str]:
    """Extract the features of real images.

    Args:
        batches: Images, each ``(B, C, H, W)``, uint8.
        extractor: The feature extractor.
        device: Device of the extractor.
        on_images: Called with the number of images done.

    Returns:
        Moments; the features, shape ``(N, D)``, float32, on the CPU; SHA-256 of all pixels in order.
    """
    extractor.to(device)
    moments, kept, done, digest = Moments(extractor.dim), [], 0, hashlib.sha256()
    for images in batches:
        digest.update(images.contiguous().numpy().tobytes())
        with full_float32():
            features = extractor(images.to(device)).features.float().cpu()
        moments.update(features)
        kept.append(features)
        done += len(images)
        if on_images is not None:
            on_images(done)
    return moments, torch.cat(kept), digest.hexdigest()


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


def load_reference(
    spec: str | Path,
    extractor: FeatureExtractor,
    *,
    img_size: tuple[int, int],
    channels: int,
    device: str = "cpu",
    batch_size: int = 64,
) -> Reference:
    """Load the reference of a score from statistics, a folder of images or built-in scans.

    Args:
        spec: An ``.npz`` of ``jitflow stats``, of the JiT release or of torch-fidelity, or of images (``arr_0``, as
            ``jitflow evaluate --npz`` and ADM's tools write it); a folder of images; ``digits`` or ``digits:val`` for
            the built-in scans.
        extractor: The feature extractor.
        img_size: (height, width) in pixels.
        channels: 3 for colour, 1 for grey.
        device: Device of the extractor.
        batch_size: Images per batch.

    Returns:
        The reference.

    Raises:
        ConfigError: If the statistics are of another dimension or extractor.
        MissingFileError: If there is neither such a file nor such a folder.
    """
    if str(spec) in BUILT_IN:
        data = DigitsDataModule(img_size)
        data.setup("fit")
        images = (data.dataset_train if BUILT_IN[str(spec)] == "train" else data.dataset_val).images
        moments, features, checksum = reference_features(iter(images.split(batch_size)), extractor, device=device)
    else:
        path = user_path(spec)
        if path.is_dir():
            batches, _ = image_batches(path, img_size, channels, batch_size=batch_size)
        elif _holds_images(path):
            batches = npz_image_batches(path, img_size, channels, batch_size)
        else:
            return _from_file(path, extractor, img_size, channels)
        moments, features, checksum = reference_features(batches, extractor, device=device)
    record = {"path": str(spec), "num_images": moments.count, "pixels_sha256": checksum}
    return Reference(Statistics(moments.mean, moments.covariance), record, features)


def _from_file(path: Path, extractor: FeatureExtractor, img_size: tuple[int, int], channels: int) -> Reference:
    statistics = load_statistics(path)
    if len(statistics.mu) != extractor.dim:
        raise ConfigError(
            f"{path} holds statistics of {len(statistics.mu)} dimensions, {extractor.name} makes {extractor.dim}; "
            "they were made with another extractor"
        )
    record: dict[str, Any] = {"path": path.name, "checksum": file_checksum(path)}
    features = None
    # Only this library's files record how they were made; others cannot be checked.
    wanted = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.checksum or "",
        "img_size": img_size[0],
        "channels": channels,
    }
    arrays = read_npz(path, [*wanted, "num_images", "features"], what="statistics file")
    try:
        for name, value in wanted.items():
            if name in arrays and arrays[name].item() != value:
                raise ConfigError(
                    f"{path} was made with {name} {arrays[name].item()}, this is an evaluation with {value}"
                )
        if "num_images" in arrays:
            record["num_images"] = int(arrays["num_images"])
        if "features" in arrays:
            features = torch.from_numpy(arrays["features"].astype(np.float32))
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} does not say in single values how it was made ({error}); make it again") from None
    return Reference(statistics, record, features)
