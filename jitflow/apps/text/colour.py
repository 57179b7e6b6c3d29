"""Colour codec: token ids as the colours of an image, and exactly back.

Three mappings, in order of increasing tolerance to noise; each reads the image row by row:

- ``base256``: one token a pixel, ``R = id % 256``, ``G = id // 256 % 256``, ``B = id // 65536``. Neighbouring ids are
  one grey level apart, so hardly any noise is tolerated.
- ``lattice``: one token a pixel, on the coarsest cubic lattice of colours that holds the vocabulary.
- ``codebook``: one token a 4x4 patch, a codeword of 48 signs; see :mod:`jitflow.apps.text.codewords`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from jitflow.apps.text.codewords import DIMENSION, LENGTH, codewords
from jitflow.errors import ConfigError, unknown_name
from jitflow.host import full_float32

Mapping = Literal["codebook", "lattice", "base256"]
MAPPINGS: tuple[Mapping, ...] = ("codebook", "lattice", "base256")
PATCH = 4
# Entries of the distance table (positions times vocabulary) in memory at once; 64 MiB.
_TABLE = 1 << 24


class ColourCodec:
    """Codec that maps token ids to an image with values in [-1, 1] and reads them back from a noisy image.

    Args:
        vocab_size: Number of token ids, special ones included.
        mapping: ``"codebook"``, ``"lattice"`` or ``"base256"``.
        img_size: Side of the image in pixels; a multiple of 4 for the codebook.
        seed: Seed of the codebook.

    Raises:
        ConfigError: If the mapping is unknown or cannot hold the vocabulary; the message names its limit.
    """

    def __init__(self, vocab_size: int, mapping: Mapping = "codebook", img_size: int = 64, seed: int = 0) -> None:
        if mapping not in MAPPINGS:
            raise unknown_name("colour mapping", mapping, MAPPINGS)
        if vocab_size < 1 or img_size < 1:
            raise ConfigError(f"vocab_size and img_size must be positive; got {vocab_size} and {img_size}")
        # A colour of three channels holds 256^3 ids, and so does a lattice of 8-bit levels.
        limit = 1 << DIMENSION
        if vocab_size > limit:
            raise ConfigError(f"the mapping {mapping} holds at most {limit} tokens; the vocabulary has {vocab_size}")
        if mapping == "codebook" and img_size % PATCH:
            raise ConfigError(f"the codebook needs an image size that is a multiple of {PATCH}; got {img_size}")
        self.vocab_size = vocab_size
        self.mapping: Mapping = mapping
        self.img_size = img_size
        self.seed = seed
        self.shape = (3, img_size, img_size)
        self._codes = codewords(vocab_size, seed=seed) if mapping == "codebook" else None
        self._side = math.ceil(round(vocab_size ** (1 / 3), 9)) if mapping == "lattice" else 256

    @property
    def num_tokens(self) -> int:
        """Number of tokens in an image: 256 for the codebook at 64 px, 4,096 for the others."""
        side = self.img_size // PATCH if self.mapping == "codebook" else self.img_size
        return side * side

    def settings(self) -> dict[str, Any]:
        """Return the arguments that rebuild this codec, plain values for a checkpoint."""
        return {
            "vocab_size": self.vocab_size,
            "mapping": self.mapping,
            "img_size": self.img_size,
            "seed": self.seed,
        }

    def encode(self, data: Tensor) -> Tensor:
        """Encode token ids as an image of colours.

        Args:
            data: Token ids, shape ``(B, num_tokens)``, integers in ``[0, vocab_size)``.

        Returns:
            Images, shape ``(B, 3, img_size, img_size)``, float32 in ``[-1, 1]``.

        Raises:
            ConfigError: If the shape or an id is out of range.
        """
        if data.ndim != 2 or data.shape[1] != self.num_tokens or data.is_floating_point():
            raise ConfigError(f"token ids must be integers of shape (B, {self.num_tokens}); got {tuple(data.shape)}")
        if data.numel() and not 0 <= int(data.min()) <= int(data.max()) < self.vocab_size:
            raise ConfigError(
                f"token ids must lie in [0, {self.vocab_size}); got {int(data.min())} to {int(data.max())}"
            )
        data = data.long()
        if self._codes is not None:
            return join_patches(self.codes(data.device)[data], self.img_size)
        digits = torch.stack([data % self._side, data // self._side % self._side, data // self._side**2], dim=1)
        # A single level (a vocabulary of one token) is -1.
        colours = digits.float() * (2 / max(1, self._side - 1)) - 1
        return colours.unflatten(-1, (self.img_size, self.img_size))

    def decode(self, x: Tensor) -> Tensor:
        """Convert a model-space image to visible pixels, shape ``(B, 3, H, W)``, uint8, rounded and clipped."""
        return ((x.float() + 1) / 2 * 255).clamp(0, 255).round().to(torch.uint8)

    def to(self, device: torch.device | str) -> ColourCodec:
        """Return the codec itself; codewords follow the device of the images."""
        return self

    def tokens(self, x: Tensor) -> Tensor:
        """Read the token ids of a noisy image: the nearest code at each position.

        Args:
            x: Images, shape ``(B, 3, img_size, img_size)``; values outside ``[-1, 1]`` are clipped.

        Returns:
            Token ids, shape ``(B, num_tokens)``, int64. With the two one-pixel mappings some colours are not in the
                vocabulary; they give an id of at least ``vocab_size``.
        """
        if self._codes is not None:
            return self._nearest(x)
        levels = ((x.float() + 1) / 2 * (self._side - 1)).clamp(0, self._side - 1).round().long().flatten(2)
        return levels[:, 0] + self._side * levels[:, 1] + self._side**2 * levels[:, 2]

    def distance(self, x: Tensor) -> Tensor:
        """Root-mean-square distance of each position to the code that is read, shape ``(B, num_tokens)``.

        The share of positions far from every code shows how certain a sample is of its text. For invalid ids the code
        is their own colour.
        """
        ids = self.tokens(x).clamp(max=self.vocab_size - 1)
        difference = (x.float() - self.encode(ids)).square()
        if self._codes is not None:
            return split_patches(difference).mean(dim=-1).sqrt()
        return difference.mean(dim=1).flatten(1).sqrt()

    def codes(self, device: torch.device | str | None = None) -> Tensor:
        """Codewords of the mapping ``codebook``, shape ``(vocab_size, 48)``; ConfigError for another mapping."""
        codes = self._codes
        if codes is None:
            raise ConfigError(f"the mapping {self.mapping} has no codewords")
        # Cached on the last device, since training needs them in every step.
        if device is not None and codes.device != torch.device(device):
            self._codes = codes = codes.to(device)
        return codes

    def levels(self, device: torch.device | str | None = None) -> Tensor:
        """Return the values of a colour channel where each token is one pixel, in increasing order from -1 to 1."""
        if self._side == 1:
            return torch.tensor([-1.0], device=device)
        return torch.linspace(-1, 1, self._side, device=device)

    def spread(self, values: Tensor) -> Tensor:
        """Spread one value per token, shape ``(B, num_tokens)``, over its pixels: ``(B, 1, img_size, img_size)``."""
        side = math.isqrt(self.num_tokens)
        grid = values.unflatten(1, (side, side)).unsqueeze(1)
        scale = self.img_size // side
        return grid.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)

    def gather(self, x: Tensor) -> Tensor:
        """Invert :meth:`spread`: one value per token from an image ``(B, 1, img_size, img_size)``."""
        scale = self.img_size // math.isqrt(self.num_tokens)
        return x[:, 0, ::scale, ::scale].flatten(1)

    def _nearest(self, x: Tensor) -> Tensor:
        """Return the nearest codeword, the one with the largest inner product, since all have equal norm."""
        assert self._codes is not None
        patches, codes = split_patches(x.float()), self.codes(x.device)
        rows = max(1, _TABLE // self.vocab_size)
        with full_float32():
            found = [(part @ codes.T).argmax(dim=-1) for part in patches.flatten(0, 1).split(rows)]
        return torch.cat(found).unflatten(0, patches.shape[:2])


def join_patches(patches: Tensor, img_size: int) -> Tensor:
    """Arrange codewords ``(B, N, 48)``, each (channel, row, column), as patches of images ``(B, 3, H, W)``."""
    side = img_size // PATCH
    x = patches.unflatten(-1, (3, PATCH, PATCH)).unflatten(1, (side, side))
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, img_size, img_size)


def split_patches(x: Tensor) -> Tensor:
    """Split images ``(B, 3, H, W)`` into patches ``(B, N, 48)``; inverse of :func:`join_patches`."""
    side = x.shape[-1] // PATCH
    patches = x.reshape(len(x), 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(len(x), side * side, LENGTH)
