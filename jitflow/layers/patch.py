"""Patch embedding of images as tokens, and its inverse.

Shapes: B batch, C channels, H x W pixels, P patch side, N tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Linear patch embedding.

    Args:
        patch_size: P.
        in_channels: C.
        dim: D.
        bias: Whether to add a bias.
    """

    def __init__(self, patch_size: int, in_channels: int, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images ``(B, C, H, W)`` as tokens ``(B, N, D)``, row by row."""
        return _tokens_of(x, self.proj)


class BottleneckPatchEmbed(nn.Module):
    """Linear patch embedding through a bottleneck, for data on a low-dimensional manifold.

    Args:
        patch_size: P.
        in_channels: C.
        bottleneck_dim: Width of the bottleneck between the two linear maps.
        dim: D.

    References:
        Li & He 2025, arXiv:2511.13720, section 4.
    """

    def __init__(self, patch_size: int, in_channels: int, bottleneck_dim: int, dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(in_channels, bottleneck_dim, patch_size, stride=patch_size, bias=False)
        self.proj2 = nn.Conv2d(bottleneck_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images ``(B, C, H, W)`` as tokens ``(B, N, D)``, row by row."""
        if x.device.type == "cpu":
            return self.proj2(self.proj1(x)).flatten(2).transpose(1, 2)
        return F.linear(_tokens_of(x, self.proj1), self.proj2.weight.flatten(1), self.proj2.bias)


def _tokens_of(x: Tensor, patches: nn.Conv2d) -> Tensor:
    """Apply a convolution of patches to images ``(B, C, H, W)``, giving tokens ``(B, N, D)``."""
    if x.device.type == "cpu":
        return patches(x).flatten(2).transpose(1, 2)
    # The same as one product of matrices, which needs no copies to the layout of an accelerator's convolutions.
    side = patches.stride[0]
    x = x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)  # B, rows, cols, C, P, P
    return F.linear(x.flatten(3).flatten(1, 2), patches.weight.flatten(1), patches.bias)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Reassemble patch tokens into an image.

    Args:
        tokens: Shape ``(B, N, P * P * C)``, each in the order (row, column, channel), channel fastest.
        grid: Rows and columns of tokens.
        patch_size: P.

    Returns:
        Images, shape ``(B, C, rows * P, columns * P)``.
    """
    rows, cols = grid
    x = tokens.unflatten(-1, (patch_size, patch_size, -1)).unflatten(1, (rows, cols))
    x = x.permute(0, 5, 1, 3, 2, 4)  # B, C, rows, P, cols, P
    return x.reshape(x.shape[0], x.shape[1], rows * patch_size, cols * patch_size)
