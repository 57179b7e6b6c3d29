"""The protocol of all codecs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


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
