"""AsymFlow: the prediction ``asym``, velocity in a few principal directions of clean patches and data in all others.

See :mod:`jitflow.core.asymmetric` for the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jitflow.codec.base import Codec
from jitflow.core.asymmetric import asymmetric_target, principal_directions, velocity_from_asymmetric
from jitflow.data.batch import collate
from jitflow.data.seeded import SeededDataset
from jitflow.errors import ConfigError
from jitflow.io.progress import meter

if TYPE_CHECKING:
    from jitflow.training.loss import FlowLoss

_MOST_IMAGES, _BATCH = 10_000, 256


class AsymmetricPrediction(nn.Module):
    """The directions of an asymmetric prediction, a buffer of the model, and its conversions.

    Args:
        patch_size: Side of a patch of the network, P.
        channels: Channels of the model space, C.
        rank: Number of directions.

    Attributes:
        basis: Orthonormal directions, shape ``(P * P * C, rank)``; zeros until training begins.

    Raises:
        ConfigError: If there are no fewer directions than numbers in a patch.
    """

    basis: Tensor

    def __init__(self, patch_size: int, channels: int, rank: int) -> None:
        super().__init__()
        size = patch_size * patch_size * channels
        if not 0 < rank < size:
            raise ConfigError(f"asym_rank must lie between 1 and {size - 1} for these patches; got {rank}")
        self.patch_size = patch_size
        self.rank = rank
        self.register_buffer("basis", torch.zeros(size, rank))

    def velocity(self, output: Tensor, x_t: Tensor, t: Tensor, t_eps: float) -> Tensor:
        """Convert the network's output into a velocity, shape ``(B, C, H, W)``."""
        return velocity_from_asymmetric(output, x_t, t, self.basis, self.patch_size, t_eps=t_eps)

    def target(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the output of an ideal network, shape ``(B, C, H, W)``."""
        return asymmetric_target(x0, x1, self.basis, self.patch_size)

    @torch.no_grad()
    def adopt_data(self, module: FlowLoss, data: Any) -> None:
        """Compute the directions from training images, unless a checkpoint provided them.

        At most 10,000 images are read, the same in every process. The first rows of a JiT's patch embedding then begin
        with these directions, as in the paper.

        Args:
            module: The module.
            data: Its data module.

        Raises:
            ConfigError: If there is no data module with a training set.
        """
        if bool(self.basis.any()):
            return
        dataset = getattr(data, "dataset_train", None)
        if dataset is None:
            raise ConfigError("prediction asym takes its directions from a data module; train with one")
        images = _read_images(dataset, module.codec)
        self.basis.copy_(principal_directions(images, self.patch_size, self.rank))
        embedding = getattr(getattr(module.net, "x_embedder", None), "proj1", None)
        if isinstance(embedding, nn.Conv2d):
            size, width = len(self.basis), embedding.out_channels
            rows = self.basis.mT[:width].unflatten(1, (self.patch_size, self.patch_size, -1)).permute(0, 3, 1, 2)
            embedding.weight[: len(rows)] = rows * math.sqrt(2 * size / (size + width))


def patch_size_of(net: nn.Module) -> int:
    """Return the side of a network's patches; raise ConfigError if it has none."""
    size = getattr(net, "patch_size", None)
    if not isinstance(size, int):
        raise ConfigError(f"prediction asym needs a network of patches; {type(net).__name__} has no patch_size")
    return size


def _read_images(dataset: Any, codec: Codec) -> Iterator[Tensor]:
    """Yield images of a training set in the model space, evenly spread over it, in batches."""
    seeded = SeededDataset(dataset, 0)
    num = min(len(dataset), _MOST_IMAGES)
    places = torch.linspace(0, len(dataset) - 1, num).round().long()
    with meter("reading patches", num) as progress:
        for part in places.split(_BATCH):
            yield codec.encode(collate(seeded.__getitems__([(0, int(i)) for i in part])).images).cpu()
            progress.update(int((places <= part[-1]).sum()))
