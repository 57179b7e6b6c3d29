"""Embeddings of time, class, further conditions and position."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jitflow.core.condition_table import Category, ConditionTable


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


class QuantityEmbedder(TimestepEmbedder):
    """Embed a number in ``[0, 1]`` as a vector, as a time is embedded, with a vector of its own for "any".

    Args:
        dim: Width D of the embedding.
        null: The code for "any".
    """

    def __init__(self, dim: int, *, null: float) -> None:
        super().__init__(dim)
        self.null = null
        self.null_embedding = nn.Parameter(torch.zeros(dim))

    def forward(self, t: Tensor) -> Tensor:
        """Embed codes ``(B,)`` of a quantity as ``(B, D)``."""
        # Both are computed for every sample, so that each step has the same graph (DDP, compilation).
        return torch.where((t == self.null)[:, None], self.null_embedding, super().forward(t))


class ConditionEmbedder(nn.Module):
    """Embed the codes of named conditions each by itself, and sum them.

    Args:
        table: The conditions.
        dim: Width D of the embedding.
    """

    def __init__(self, table: ConditionTable, dim: int) -> None:
        super().__init__()
        self.names = list(table.conditions)
        for name, condition in table.conditions.items():
            embedder: nn.Module = (
                LabelEmbedder(len(condition.names), dim)
                if isinstance(condition, Category)
                else QuantityEmbedder(dim, null=condition.null)
            )
            self.add_module(f"{name}_embedder", embedder)
        for parameter in self.parameters():
            # As the table of classes; biases are zero.
            nn.init.normal_(parameter, std=0.02) if parameter.dim() == 2 else nn.init.zeros_(parameter)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes ``(B, K)`` as ``(B, D)``, the sum of the conditions' embeddings."""
        embedded = []
        for name, column in zip(self.names, codes.unbind(1), strict=True):
            embedder = self.get_submodule(f"{name}_embedder")
            embedded.append(embedder(column.long() if isinstance(embedder, LabelEmbedder) else column))
        return torch.stack(embedded).sum(dim=0)


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
