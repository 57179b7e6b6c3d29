"""Normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned weight, computed in float32.

    The result is cast to the input's dtype after the weight is applied, as in the JiT release.

    Args:
        dim: Size of the last dimension.
        eps: Added to the mean square.

    References:
        Zhang & Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x``, shape ``(..., dim)``; shape and dtype are kept."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def block_norm(dim: int, *, rms: bool) -> nn.Module:
    """Build the norm before a modulation: RMSNorm, or a LayerNorm that leaves scale and shift to the modulation."""
    return RMSNorm(dim) if rms else nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)


def modulate(x: Tensor, shift: Tensor | None, scale: Tensor) -> Tensor:
    """Apply the adaLN modulation to tokens: ``x (1 + scale) + shift``.

    Args:
        x: Tokens, shape ``(B, N, D)``.
        shift: Shape ``(B, D)``, or None for none.
        scale: Shape ``(B, D)``.

    Returns:
        Tokens, shape ``(B, N, D)``.
    """
    return torch.addcmul(x if shift is None else x + shift.unsqueeze(1), x, scale.unsqueeze(1))
