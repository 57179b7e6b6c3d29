"""Convolutional building blocks of autoencoders.

Shapes: B batch, C channels, H x W pixels.
Parameter names are those of the latent-diffusion autoencoders, so that their state dicts load unchanged.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from jitflow.errors import ConfigError

NUM_GROUPS = 32


def group_norm(channels: int) -> nn.GroupNorm:
    """Build the blocks' group normalisation of 32 groups; raise ConfigError if they do not divide the channels."""
    if channels < 1 or channels % NUM_GROUPS:
        raise ConfigError(f"the autoencoder's channels must be multiples of {NUM_GROUPS}; got {channels}")
    return nn.GroupNorm(NUM_GROUPS, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Residual block: two normalised convolutions and a shortcut.

    Args:
        in_channels: C of the input.
        out_channels: C of the output; where it differs the shortcut is a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # An Identity has no parameters, hence no key in a state dict.
        self.nin_shortcut: nn.Module = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the residual block to feature maps ``(B, C, H, W)``, giving ``(B, C_out, H, W)``."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class SpatialAttention(nn.Module):
    """Self-attention over all pixels, with one head as wide as the channels.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply self-attention to feature maps ``(B, C, H, W)``, keeping their shape."""
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution, padded on the right and at the bottom only.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample feature maps ``(B, C, H, W)`` to ``(B, C, H / 2, W / 2)``."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by repeating pixels, then smooth with a convolution.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample feature maps ``(B, C, H, W)`` to ``(B, C, 2 H, 2 W)``."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
