"""Embeddings of time, class and position."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimestepEmbedder(nn.Module):
    """Embed a time as a vector: sinusoids, then two linear layers.

    Args:
        dim: Width D of the embedding.
        frequency_dim: Number of sinusoids, half cosines and half sines.
    """

    def __init__(self, dim: int, *, frequency_dim: int = 256) -> None:
        super().__init__()
        self.frequency_dim = frequency_dim
        self.mlp = nn.Sequential(nn.Linear(frequency_dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    @property
    def embedding_dtype(self) -> torch.dtype:
        """Precision of the linear layers; the sinusoids are computed in float32."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return first.weight.dtype

    def matrices(self) -> list[Tensor]:
        """Weights of both linear layers, without their biases."""
        return [parameter for parameter in self.mlp.parameters() if parameter.dim() == 2]

    def forward(self, t: Tensor) -> Tensor:
        """Embed times ``(B,)``, fed unscaled from ``[0, 1]``, as ``(B, D)``."""
        half = self.frequency_dim // 2
        positions = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000.0) / half * positions)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(sinusoids.to(self.embedding_dtype))


class LabelEmbedder(nn.Module):
    """Embed a class label as a vector, with one more row for "no class".

    Args:
        num_classes: Number of classes; this number is also the null label.
        dim: Width D of the embedding.
        null_row: Whether there is a row for "no class"; guidance needs it.
    """

    def __init__(self, num_classes: int, dim: int, *, null_row: bool = True) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + int(null_row), dim)

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels ``(B,)`` as ``(B, D)``."""
        return self.embedding_table(label)


def sincos_position_table(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed sinusoidal position embedding of each token: column in the first half of the channels, row in the second.

    Args:
        grid: Rows and columns of tokens, row-major.
        dim: D, divisible by 4.

    Returns:
        Table, shape ``(1, N, D)``, float32 (computed in float64).
    """
    freqs = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, cols = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    parts = []
    for positions_1d in (cols, rows):
        angles = positions_1d.reshape(-1, 1) * freqs
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).float()[None]
