"""Patch embedding of images as tokens, and its inverse.

Shapes: B batch, C channels, H x W pixels, P patch side, N tokens, D width.
"""

from __future__ import annotations

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
        return self.proj(x).flatten(2).transpose(1, 2)


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
        return self.proj2(self.proj1(x)).flatten(2).transpose(1, 2)


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
