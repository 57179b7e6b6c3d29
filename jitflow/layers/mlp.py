"""Feed-forward layers of a Transformer block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """Gated feed-forward layer: ``w3(dropout(silu(u) * v))`` with ``[u | v] = w12(x)``.

    The hidden size is two thirds of the nominal one, since the gate adds a third matrix.

    Args:
        dim: Width D.
        mlp_ratio: Nominal hidden size over D.
        dropout: Dropout of the hidden units.

    References:
        Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = int(int(dim * mlp_ratio) * 2 / 3)
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token separately, shape ``(B, N, D)`` in and out."""
        u, v = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.dropout(F.silu(u) * v))


class Mlp(nn.Module):
    """Plain feed-forward layer: ``fc2(gelu(fc1(x)))``, with the tanh form of GELU.

    Args:
        dim: Width D.
        mlp_ratio: Hidden size over D.
    """

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token separately, shape ``(B, N, D)`` in and out."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
