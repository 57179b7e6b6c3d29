"""Feed-forward layers of a Transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jitflow.layers.fusion import fuses, is_plain_linear, product_dtype


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
        if fuses(x):
            return self._fused(x)
        u, v = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.dropout(F.silu(u) * v))

    def _fused(self, x: Tensor) -> Tensor:
        from jitflow.kernels.swiglu import swiglu

        if not (is_plain_linear(self.w12) and is_plain_linear(self.w3)):
            return self.w3(self.dropout(swiglu(self.w12(x), None)))
        # The kernel adds the bias, since it also sums its gradient.
        w12, bias, w3 = pad_hidden(self.w12.weight, self.w12.bias, self.w3.weight, dtype=product_dtype(x))
        return F.linear(self.dropout(swiglu(F.linear(x, w12), bias)), w3, self.w3.bias)


def pad_hidden(w12: Tensor, bias: Tensor, w3: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the hidden units of a gated layer with zeros to a multiple of 64; the result does not change.

    Two thirds of a nominal size are often a number such as 2,730, whose rows are not aligned in memory: GPUs have
    slower products for them, and copy them first.
    """
    hidden = w3.shape[1]
    more = -hidden % 64
    if not more:
        return w12, bias, w3
    w12 = F.pad(w12.to(dtype).unflatten(0, (2, hidden)), (0, 0, 0, more)).flatten(0, 1)
    return w12, F.pad(bias.unflatten(0, (2, hidden)), (0, more)).flatten(), F.pad(w3.to(dtype), (0, more))


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
