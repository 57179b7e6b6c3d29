"""scikit-learn's 1,797 scans of handwritten digits as a data module, without a download."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.data.crop import height_and_width
from jitflow.errors import ConfigError, optional_package

# Fixed, so that a classifier trained on one split never sees the other, whatever the run's seed.
_SPLIT_SEED = 0
Split = Literal["train", "val"]


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Data set of images and labels in memory, read in whole batches.

    Args:
        images: Pixels, shape ``(N, C, H, W)``, uint8.
        labels: Classes, shape ``(N,)``, int64.
        classes: Name of each label.
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: list[str]) -> None:
        self.images = images
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def read_batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``(B, C, H, W)`` and labels ``(B,)`` at the indices ``(B,)``."""
        return self.images[index], self.labels[index]


class DigitsDataModule(ImageDataModule):
    """Data module of handwritten digits, greyscale, never flipped (a mirrored digit is another symbol).

    Args:
        img_size: Side of a square, or ``(height, width)``, in pixels; the scans are 8 x 8.
        batch_size: Images per batch and process.
        val_fraction: Share of the scans of each digit held out for validation, in (0, 1).
        loading: Further :class:`~jitflow.data.base.LoaderSettings`. The data are in memory, so 0 workers are fastest;
            the split does not depend on the seed.

    Raises:
        ConfigError: If a number is out of range.
    """

    channels = 1

    def __init__(
        self,
        img_size: int | tuple[int, int] = 16,
        batch_size: int = 64,
        *,
        val_fraction: float = 0.2,
        **loading: Any,
    ) -> None:
        super().__init__(img_size, batch_size, LoaderSettings(**loading))
        _check_fraction(val_fraction)
        self.val_fraction = val_fraction

    def setup(self, stage: str | None = None) -> None:
        """Load, split and resize the scans.

        Args:
            stage: Ignored; both sets are ready in milliseconds.

        Raises:
            ConfigError: If scikit-learn is not installed.
        """
        if self.dataset_train is None:
            self.dataset_train, self.dataset_val = (self._resized(split) for split in ("train", "val"))

    def _resized(self, split: Split) -> TensorImages:
        images, labels = digits_arrays(split, val_fraction=self.val_fraction)
        scaled = torch.from_numpy(images).float() * (255 / 16)
        size = height_and_width(self.img_size)
        # Bicubic interpolation overshoots at the edges of strokes, hence the clip.
        scaled = interpolate(scaled, size=size, mode="bicubic", align_corners=False, antialias=True)
        pixels = scaled.round_().clamp_(0, 255).to(torch.uint8)
        return TensorImages(pixels, torch.from_numpy(labels), [str(digit) for digit in range(10)])


def digits_arrays(split: Split, *, val_fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Return the original scans of digits, for a classifier that judges generated ones.

    Args:
        split: ``"train"`` or ``"val"``, the same scans as in :class:`DigitsDataModule`.
        val_fraction: Share of the scans of each digit in ``"val"``, in (0, 1).

    Returns:
        Images, shape ``(N, 1, 8, 8)``, uint8 in ``[0, 16]``, and labels, shape ``(N,)``, int64.

    Raises:
        ConfigError: If scikit-learn is not installed or an argument is out of range.
    """
    if split not in ("train", "val"):
        raise ConfigError(f"split must be 'train' or 'val'; got {split!r}")
    _check_fraction(val_fraction)
    images, labels = all_digits()
    held_out = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(_SPLIT_SEED)
    for digit in range(10):
        indices = np.flatnonzero(labels == digit)
        held_out[generator.permutation(indices)[: round(len(indices) * val_fraction)]] = True
    chosen = held_out if split == "val" else ~held_out
    return images[chosen], labels[chosen]


@functools.cache
def all_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all scans of digits and their labels, loaded once; raise ConfigError without scikit-learn."""
    with optional_package("sklearn", missing="the digits come with scikit-learn; pip install 'jitflow[demo]'"):
        from sklearn.datasets import load_digits
    bunch = load_digits()
    return bunch.images[:, None].astype(np.uint8), bunch.target.astype(np.int64)


def _check_fraction(val_fraction: float) -> None:
    if not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must lie in (0, 1); got {val_fraction}")
