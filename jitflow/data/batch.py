"""Batches of images and labels, with the index and epoch of each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from jitflow.data.errors import SampleError

Sample = tuple[Tensor, int, int, int]
"""Image, label, index and epoch of one sample."""


class ImageBatch:
    """Batch of images and labels that unpacks as the pair ``images, labels = batch``.

    Deliberately not a tuple: Lightning would rebuild a tuple and lose the index.

    Args:
        images: Pixels, shape ``(B, C, H, W)``, uint8 unless a custom transform says otherwise.
        labels: Classes, shape ``(B,)``, int64.
        index: Index of each sample in its data set, shape ``(B,)``, int64. With ``epoch`` it seeds the random numbers
            of a sample, whatever the batch size or the number of processes.
        source: Images of another data set from which the paths of these begin, shape ``(B, C, H, W)``; None for noise.
        epoch: The epoch for which the sampler drew the batch, which seeds its random numbers. It equals the trainer's,
            except under ``overfit_batches``, which reads the same batches again: always 0.
    """

    __slots__ = ("epoch", "images", "index", "labels", "source")

    def __init__(
        self, images: Tensor, labels: Tensor, index: Tensor, epoch: int = 0, source: Tensor | None = None
    ) -> None:
        self.images = images
        self.labels = labels
        self.index = index
        self.epoch = epoch
        self.source = source

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels))

    def __getitem__(self, item: int | slice) -> Any:
        return (self.images, self.labels)[item]

    def __repr__(self) -> str:
        return f"ImageBatch(images={tuple(self.images.shape)}, labels={tuple(self.labels.shape)}, epoch={self.epoch})"

    @property
    def num_bytes(self) -> int:
        """Size of all tensors in bytes."""
        tensors = (self.images, self.labels, self.index, self.source)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def to(self, device: torch.device | str, **kwargs: Any) -> ImageBatch:
        """Copy the batch to a device; keyword arguments are those of ``Tensor.to``.

        The index stays on the CPU, where it seeds the random numbers of each sample; reading it from an accelerator
        would make every step wait.
        """
        return self._map(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> ImageBatch:
        """Copy the batch into page-locked memory, from which a GPU can fetch it directly."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> ImageBatch:
        source = None if self.source is None else function(self.source)
        return ImageBatch(function(self.images), function(self.labels), self.index, self.epoch, source)


def collate(samples: Sequence[Sample] | ImageBatch) -> ImageBatch:
    """Stack samples into a batch; a batch that was read as a whole is returned unchanged.

    Args:
        samples: Image ``(C, H, W)``, label, index and epoch of each sample.

    Returns:
        The batch.

    Raises:
        DataError: If the images differ in shape or are not tensors.
    """
    if isinstance(samples, ImageBatch):
        return samples
    images, labels, index, epochs = zip(*samples, strict=True)
    for image, position in zip(images, index, strict=True):
        if not isinstance(image, Tensor):
            raise SampleError(
                f"sample {position} is a {type(image).__name__} after its transform; "
                "end the transform with PILToTensor()"
            )
        if image.shape != images[0].shape:
            raise SampleError(
                f"samples {index[0]} and {position} have shapes {tuple(images[0].shape)} and {tuple(image.shape)}; "
                "crop all images to one size"
            )
    return ImageBatch(
        torch.stack(images),
        torch.as_tensor(labels, dtype=torch.int64),
        torch.as_tensor(index, dtype=torch.int64),
        epochs[0],
    )
