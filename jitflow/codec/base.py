"""The protocol of all codecs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from jitflow.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self


UNSCALED = (1.0, 0.0)
"""Factor and shift of a codec that does not scale its latents."""
# Overshoot of a decoder before rounding.
_MARGIN = 26


def check_pixel_range(data: Tensor) -> Tensor:
    """Return the pixels unchanged; raise DataError for floats that cannot be in the range 0 to 255.

    Floats from 0 to 1 would give black images, and decibels black and white ones. Bytes are not checked.

    Args:
        data: Images, shape ``(B, C, H, W)``.
    """
    if data.is_floating_point() and data.numel():
        low, high = (float(end) for end in data.detach().aminmax())
        if low < -_MARGIN or high > 255 + _MARGIN or (high <= 1 and (low or high)):
            raise DataError(
                f"pixels must be bytes (uint8), or floats from 0 to 255; got {low:.4g} to {high:.4g}; scale "
                "them to 0 to 255 in the data module"
            )
    return data


class Codec(Protocol):
    """Codec that maps data to the model space and back.

    Attributes:
        shape: Shape of one sample in the model space, ``(C, H, W)``.
    """

    shape: tuple[int, int, int]

    def encode(self, data: Tensor) -> Tensor:
        """Map data ``(B, *)`` to the model space, ``(B, *shape)``, float32."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """Map the model space ``(B, *shape)`` back to visible images, uint8 ``(B, C, H, W)``."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move the decoder to a device; returns itself."""
        ...
