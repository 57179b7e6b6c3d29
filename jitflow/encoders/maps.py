"""Encoders as maps of features of an image, through which gradients reach the image, for losses.

Shapes: B batch, C channels, H x W pixels, D features, h x w places.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from jitflow.encoders.timm_network import read_timm_network
from jitflow.errors import ConfigError


class MapEncoder(nn.Module):
    """Base class of frozen encoders: images to maps of features.

    Attributes:
        name: Name of the feature extractor with the same network; a judge of this name is not held out from a training
            with the encoder.
        checksum: SHA-256 of the weights.
        num_features: D.
    """

    name: str
    checksum: str
    num_features: int

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: Shape ``(B, C, H, W)``, float, nominally in ``[-1, 1]``; C is 1 or 3.

        Returns:
            Features at each place, shape ``(B, D, h, w)``, float32.
        """
        raise NotImplementedError


class TimmMaps(MapEncoder):
    """Maps of a network of timm: the patches of a Transformer after its last norm, or the places of a convolution.

    Args:
        model_name: Name in ``timm.list_models()``.
        weights_path: File of its weights, see :func:`jitflow.encoders.timm_network.read_timm_network`.
        img_size: Side of its input in pixels, to which images are resized; None takes timm's.
        layer: Block of a Transformer or stage of a convolutional network, counted from 0, or from the end if negative.

    Raises:
        ConfigError: If timm is not installed, or the network cannot be used so.
        MissingFileError: If there is no such file.
        CheckpointError: If the file does not hold the network's weights.
    """

    def __init__(self, model_name: str, weights_path: str | Path, img_size: int | None = None, layer: int = -1) -> None:
        super().__init__()
        network = read_timm_network(model_name, weights_path, img_size)
        self.net = network.net
        self.name, self.checksum = network.name, network.checksum
        self.layer = layer
        self._size_px, self._interpolation = network.size_px, network.interpolation
        self.register_buffer("mean", network.mean, persistent=False)
        self.register_buffer("std", network.std, persistent=False)
        self.num_features = self._probe_features()

    def forward(self, images: Tensor) -> Tensor:
        """Encode images, as :meth:`MapEncoder.forward`."""
        pixels = (images.expand(-1, 3, -1, -1) + 1) / 2
        if pixels.shape[2:] != self._size_px:
            pixels = interpolate(pixels, size=self._size_px, mode=self._interpolation, antialias=True)
        maps = self.net.forward_intermediates(  # type: ignore[operator]
            (pixels - self.get_buffer("mean")) / self.get_buffer("std"),
            indices=[self.layer],
            norm=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        found: Tensor = maps[0]
        return found.float()

    def _probe_features(self) -> int:
        """Count the features with a blank image, so that a network without maps fails before long work starts."""
        with torch.device("cpu"), torch.no_grad():
            try:
                found = self(torch.zeros(1, 3, *self._size_px))
            # Networks react differently to what they do not support.
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                reason = str(error).split("\n")[0] or type(error).__name__
                raise ConfigError(f"{self.name} gives no map of features at layer {self.layer} ({reason})") from None
        return found.shape[1]


def resize_maps(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize maps of features to a grid of tokens, bilinear with smoothing where the grid is coarser.

    Args:
        maps: Shape ``(B, D, h, w)``.
        grid: Rows and columns of tokens.

    Returns:
        Features of each token, row-major, shape ``(B, N, D)``.
    """
    if maps.shape[2:] != grid:
        maps = interpolate(maps, size=grid, mode="bilinear", antialias=True)
    return maps.flatten(2).mT
