"""Resizing of images to a network's input, with and without antialiasing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize(images: Tensor, size_px: tuple[int, int], filter: str = "bicubic", *, antialias: bool = True) -> Tensor:
    """Resize images without rounding to whole grey levels; values beyond black and white are clipped.

    With antialiasing it is Pillow's filter in floating point, which clean-fid takes (``PIL``, not quantised): equal to
    1e-4 grey levels. Without, it is torch's, clean-fid's ``legacy_pytorch``.

    Args:
        images: Shape ``(B, C, H, W)``, grey levels in ``[0, 255]``, uint8 or float.
        size_px: New (height, width).
        filter: ``bicubic`` or ``bilinear``.
        antialias: Widen the filter when shrinking, so that every pixel counts.

    Returns:
        Shape ``(B, C, *size_px)``, float32, in ``[0, 255]``.

    References:
        Parmar et al. 2022, "On aliased resizing and surprising subtleties in GAN evaluation", arXiv:2104.11222.
    """
    if tuple(images.shape[-2:]) == size_px:
        return images.float()
    # In float32 torch's antialiasing is off by up to 4e-3 grey levels; Apple's devices have no float64.
    is_precise = antialias and images.device.type != "mps"
    pixels = images.to(torch.float64 if is_precise else torch.float32)
    return interpolate(pixels, size=size_px, mode=filter, antialias=antialias).clamp(0, 255).float()
