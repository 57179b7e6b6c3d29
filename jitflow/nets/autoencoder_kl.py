"""AutoencoderKL, the convolutional autoencoder of latent diffusion: VA-VAE f16d32, SD-VAE, FLUX's.

Shapes: B batch, H x W pixels, F downsampling factor, Z latent channels; h x w = H / F x W / F.
Parameter names are those of the VA-VAE release, so that its state dict loads unchanged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jitflow.errors import ConfigError
from jitflow.layers.residual import Downsample, ResnetBlock, SpatialAttention, Upsample, group_norm

# Largest sizes, since settings may come from a file; VA-VAE has 5 levels of 2 blocks and 512 channels at most.
_MOST_LEVELS, _MOST_BLOCKS, _MOST_CHANNELS = 8, 16, 8192


class GaussianLatents(NamedTuple):
    """Encoder output: an independent normal distribution for each element of the latents.

    Attributes:
        mean: Shape ``(B, Z, h, w)``.
        logvar: Logarithm of the variance, shape of ``mean``, in ``[-30, 20]`` before any scaling of the latents.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of the latents, shape of ``mean``."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Sample latents, shape of ``mean``; a given generator draws on its own device."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)


class _Level(nn.Module):
    """Blocks at one resolution, each followed by attention where there is any, then the change of resolution."""

    def __init__(self, channels: Sequence[int], *, attention: bool, name: str, resample: nn.Module | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in itertools.pairwise(channels))
        self.attn = nn.ModuleList(SpatialAttention(b) for b in channels[1:] if attention)
        self._resample = name if resample is not None else None
        if resample is not None:
            self.add_module(name, resample)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return x if self._resample is None else self.get_submodule(self._resample)(x)


class _Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = SpatialAttention(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Encoder from images to features at the latent resolution.

    Args:
        in_channels: Channels of the images.
        out_channels: Channels of the features.
        widths: Channels of each level.
        attention: Whether each level has attention.
        num_res_blocks: Blocks of a level.
        ch: Channels after the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        attention: Sequence[bool],
        num_res_blocks: int,
        ch: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        levels = []
        before = ch
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            levels.append(
                _Level(
                    [before, *[width] * num_res_blocks],
                    attention=attention[i],
                    name="downsample",
                    resample=None if last else Downsample(width),
                )
            )
            before = width
        self.down = nn.ModuleList(levels)
        self.mid = _Middle(before)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` to features ``(B, out_channels, h, w)``."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Decoder from latents to images; it has one more block a level than the encoder.

    Args:
        in_channels: Channels of the latents.
        out_channels: Channels of the images.
        widths: Channels of each level, highest resolution first, as in the encoder.
        attention: Whether each level has attention.
        num_res_blocks: Blocks of an encoder's level.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        attention: Sequence[bool],
        num_res_blocks: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        # Numbered from the highest resolution, run from the lowest.
        self.up = nn.ModuleList(
            _Level(
                [widths[min(i + 1, len(widths) - 1)], *[width] * (num_res_blocks + 1)],
                attention=attention[i],
                name="upsample",
                resample=Upsample(width) if i else None,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(B, Z, h, w)`` to images ``(B, 3, H, W)``."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoencoderKL(nn.Module):
    """Autoencoder that maps images to a normal distribution of latents, and latents to images.

    The defaults are VA-VAE f16d32: 256 x 256 pixels to 32 x 16 x 16. Other image sizes divisible by the factor work
    too, since attention is set by level, not by image size.

    Args:
        embed_dim: Z.
        ch: Channels of a level of multiplier 1; a multiple of 32.
        ch_mult: Multiplier of each level, highest resolution first; ``F = 2 ** (len(ch_mult) - 1)``.
        resolution: Side of the image in pixels for which ``attn_resolutions`` is given.
        num_res_blocks: Blocks of an encoder's level; the decoder has one more.
        attn_resolutions: Sides in pixels of the feature maps with attention.
        in_channels: Channels of the images, in and out.
        scaling_factor: Factor of the latents, as diffusers' pipelines scale them to a standard deviation of about 1.
        shift_factor: Number that is subtracted from the latents before: ``z = (z_raw - shift) * scaling``.

    Raises:
        ConfigError: If a setting is of another type, out of its range, or the sizes are inconsistent.

    References:
        Rombach et al. 2022, arXiv:2112.10752; Yao et al. 2025, arXiv:2501.01423 (VA-VAE).
    """

    def __init__(
        self,
        embed_dim: int = 32,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        resolution: int = 256,
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        in_channels: int = 3,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "embed_dim": embed_dim,
            "ch": ch,
            "ch_mult": _list_of_sizes("ch_mult", ch_mult),
            "resolution": resolution,
            "num_res_blocks": num_res_blocks,
            "attn_resolutions": _list_of_sizes("attn_resolutions", attn_resolutions),
            "in_channels": in_channels,
            "scaling_factor": scaling_factor,
            "shift_factor": shift_factor,
        }
        _check_settings(self.config)
        self.embed_dim = embed_dim
        self.in_channels = in_channels
        self.factor = 2 ** (len(ch_mult) - 1)
        self.scaling = (float(scaling_factor), float(shift_factor))
        widths = [ch * multiplier for multiplier in ch_mult]
        attention = [resolution // 2**i in attn_resolutions for i in range(len(ch_mult))]
        self.encoder = Encoder(
            in_channels, 2 * embed_dim, widths=widths, attention=attention, num_res_blocks=num_res_blocks, ch=ch
        )
        self.decoder = Decoder(
            embed_dim, in_channels, widths=widths, attention=attention, num_res_blocks=num_res_blocks
        )
        self.quant_conv = nn.Conv2d(2 * embed_dim, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, embed_dim, 1)

    def encode(self, x: Tensor) -> GaussianLatents:
        """Encode images as distributions of latents.

        Args:
            x: Images, shape ``(B, in_channels, H, W)``, in ``[-1, 1]``; F divides H and W.

        Returns:
            ``(mean, logvar)`` of the scaled latents, each of shape ``(B, Z, h, w)``.

        Raises:
            ValueError: If the shape is wrong.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"this autoencoder takes images of shape (B, {self.in_channels}, H, W) with H and W divisible by "
                f"{self.factor}; got {tuple(x.shape)}"
            )
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        factor, shift = self.scaling
        return GaussianLatents((mean - shift) * factor, logvar.clamp(-30.0, 20.0) + 2 * math.log(factor))

    def decode(self, z: Tensor) -> Tensor:
        """Map latents to images.

        Args:
            z: Scaled latents, shape ``(B, Z, h, w)``.

        Returns:
            Images, shape ``(B, in_channels, H, W)``, nominally in ``[-1, 1]``, not clipped.

        Raises:
            ValueError: If the shape is wrong.
        """
        if z.dim() != 4 or z.shape[1] != self.embed_dim:
            raise ValueError(
                f"this autoencoder takes latents of shape (B, {self.embed_dim}, h, w); got {tuple(z.shape)}"
            )
        factor, shift = self.scaling
        return self.decoder(self.post_quant_conv(z / factor + shift))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct images from the mean of their latents, shape ``(B, in_channels, H, W)``."""
        return self.decode(self.encode(x).mean)


def _list_of_sizes(name: str, given: Any) -> list[int]:
    """Return a list of whole numbers; raise ConfigError for anything else."""
    if not isinstance(given, list | tuple) or not all(type(value) is int for value in given):
        raise ConfigError(f"{name} of an autoencoder must be a list of whole numbers; got {str(given)[:80]}")
    return list(given)


def _check_settings(config: dict[str, Any]) -> None:
    """Raise ConfigError for a setting that is no number or out of its range, before anything is built from it."""
    widest = max(config["ch_mult"], default=0)
    ranges = {
        "embed_dim": _MOST_CHANNELS,
        "ch": _MOST_CHANNELS,
        "num_res_blocks": _MOST_BLOCKS,
        "in_channels": _MOST_CHANNELS,
        "resolution": 2**31,
    }
    for name, most in ranges.items():
        value = config[name]
        if type(value) is not int or not 1 <= value <= most:
            raise ConfigError(
                f"{name} of an autoencoder must be a whole number from 1 to {most}; got {str(value)[:80]}"
            )
    if not 1 <= len(config["ch_mult"]) <= _MOST_LEVELS or min(config["ch_mult"]) < 1:
        raise ConfigError(
            f"ch_mult of an autoencoder needs 1 to {_MOST_LEVELS} multipliers of at least 1; "
            f"got {str(config['ch_mult'])[:80]}"
        )
    if config["ch"] * widest > _MOST_CHANNELS:
        raise ConfigError(f"an autoencoder has at most {_MOST_CHANNELS} channels; got {config['ch']} x {widest}"[:200])
    for name in ("scaling_factor", "shift_factor"):
        value = config[name]
        if type(value) not in (int, float) or not abs(value) < 1e6 or (name == "scaling_factor" and value < 1e-6):
            raise ConfigError(f"{name} of an autoencoder is a number such as 0.18215; got {str(value)[:80]}")
