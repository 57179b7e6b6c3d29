"""Labels without images, for trainings whose model generates the images itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.errors import check_count


class LabelRequests(Dataset[tuple[Tensor, int]]):
    """Data set of labels in turn, read in whole batches; the images are empty.

    Args:
        num_images: Length of an epoch.
        num_classes: Number of classes; 0 for a model without classes, whose label is always 0.
        classes: Name of each label, if known.
    """

    def __init__(self, num_images: int, num_classes: int, classes: Sequence[str] = ()) -> None:
        self.num_images = num_images
        self.num_classes = num_classes
        self.classes = list(classes) or [str(label) for label in range(num_classes)]

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.empty(0, 0, 0, dtype=torch.uint8), index % max(1, self.num_classes)

    def read_batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return empty images ``(B, 0, 0, 0)`` and labels ``(B,)`` at the indices ``(B,)``."""
        return torch.empty(len(index), 0, 0, 0, dtype=torch.uint8), index % max(1, self.num_classes)


class LabelDataModule(ImageDataModule):
    """Data module of labels, the same number of each class in an epoch, in random order.

    Args:
        num_classes: Number of classes of the model.
        img_size: Side of the model's images, or ``(height, width)``, in pixels.
        batch_size: Images per batch and process.
        num_images: Images of an epoch, over all processes.
        channels: Channels of the model's images.
        classes: Name of each label, if known.
        loading: Further :class:`~jitflow.data.base.LoaderSettings`.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int | tuple[int, int],
        batch_size: int = 256,
        *,
        num_images: int = 12_800,
        channels: int = 3,
        classes: Sequence[str] = (),
        **loading: Any,
    ) -> None:
        super().__init__(img_size, batch_size, LoaderSettings(**loading))
        check_count("num_classes", num_classes, least=0)
        check_count("num_images", num_images)
        self.num_classes = num_classes
        self.num_images = num_images
        self.channels = channels
        self.classes = classes

    def setup(self, stage: str | None = None) -> None:
        """Create the labels.

        Args:
            stage: Ignored; there are no data to read.
        """
        if self.dataset_train is None:
            self.dataset_train = LabelRequests(self.num_images, self.num_classes, self.classes)
