"""LPIPS: perceptual distance of images by the features of VGG-16, from local files.

Shapes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from jitflow.errors import CheckpointError
from jitflow.io.files import existing_file, file_checksum, load_checkpoint

# The last layer before each of VGG's poolings, where features are compared, and its channels.
_LAYERS = {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_SIDE_PX = 16
"""Smallest side of an image: four poolings halve it."""


class Lpips(nn.Module):
    """LPIPS with VGG-16, version 0.1: weighted squared differences of normalised features at five depths.

    The weights of the differences are small, and torchmetrics, on which Lightning depends, brings them along; VGG's are
    torchvision's file ``vgg16-397923af.pth``.

    Args:
        weights_path: File of VGG-16, with torchvision's names.

    Attributes:
        checksum: SHA-256 of the file.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If the file does not hold VGG-16.

    References:
        Zhang et al. 2018, arXiv:1801.03924.
    """

    def __init__(self, weights_path: str | Path) -> None:
        super().__init__()
        path = existing_file(weights_path, what="weights file of VGG-16")
        self.checksum = file_checksum(path)
        # A training is first checked without memory for its model; the files are read even then.
        with torch.device("cpu"):
            self.layers = _read_vgg(path)
            weights = _read_difference_weights()
            for index, channels in _LAYERS.items():
                self.register_buffer(f"weights{index}", weights[index].reshape(channels, 1, 1), persistent=False)
            self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Compute the distance of each image to another one; gradients reach both.

        Args:
            images: Shape ``(B, C, H, W)``, float, nominally in ``[-1, 1]``; C is 1 or 3, the sides at least 16.
            others: Shape and range of ``images``.

        Returns:
            Distances, shape ``(B,)``, float32, at least 0.
        """
        both = torch.cat([images, others]).expand(-1, 3, -1, -1)
        x = ((both + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")
        total = torch.zeros(len(images), device=images.device)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in _LAYERS:
                first, second = normalize(x.float(), dim=1).chunk(2)
                weighted = (first - second).square() * self.get_buffer(f"weights{index}")
                total = total + weighted.sum(dim=1).mean(dim=(1, 2))
        return total


def _read_vgg(path: Path) -> nn.Sequential:
    """Build the convolutions of VGG-16 from torchvision's file."""
    from torchvision.models import vgg16

    with torch.random.fork_rng(devices=()), torch.device("meta"):
        layers: Any = vgg16(weights=None).features[: max(_LAYERS) + 1]
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    weights = load_checkpoint(path)
    found = {name.removeprefix("features."): weights[name] for name in weights if name.startswith("features.")}
    try:
        layers.load_state_dict(found, assign=True)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(
            f"{path} does not hold the weights of VGG-16 ({wrong[0][:120] if wrong else error}); take torchvision's "
            "vgg16-397923af.pth"
        ) from None
    return layers.eval().requires_grad_(False)


def _read_difference_weights() -> dict[int, Tensor]:
    """Read LPIPS's weight of each channel's difference, by VGG's layer."""
    spec = importlib.util.find_spec("torchmetrics")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "functional" / "image" / "lpips_models"
    stored = load_checkpoint(existing_file(folder / "vgg.pth", what="weights file of LPIPS"))
    return {index: stored[f"lin{depth}.model.1.weight"].float() for depth, index in enumerate(_LAYERS)}
