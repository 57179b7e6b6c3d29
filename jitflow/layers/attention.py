"""Self-attention with normalised queries and keys and rotary positions.

Shapes: B batch, N tokens, U of them unread, D width, A heads, K head dim.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from jitflow.layers.fusion import fuses, is_plain_linear
from jitflow.layers.norm import RMSNorm
from jitflow.layers.rope import apply_rope


class Attention(nn.Module):
    """Multi-head self-attention with PyTorch's fused kernel.

    Args:
        dim: D.
        num_heads: A, a divisor of D.
        attn_dropout: Dropout of the attention probabilities.
        proj_dropout: Dropout of the output.
        qk_norm: Norm of queries and keys over a head: ``"rms"``, ``"layer"`` (with scale and shift) or None.

    References:
        Query-key normalisation: Henry et al. 2020, arXiv:2010.04245.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
        qk_norm: Literal["rms", "layer"] | None = "rms",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_dropout = attn_dropout
        # Registered in the release's order, which is the order of its optimiser state.
        self.q_norm = _head_norm(dim // num_heads, qk_norm)
        self.k_norm = _head_norm(dim // num_heads, qk_norm)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_dropout)

    def forward(self, x: Tensor, rope: Tensor | None, unread: int = 0) -> Tensor:
        """Apply self-attention to tokens.

        Args:
            x: Tokens, shape ``(B, N, D)``.
            rope: Rotation table, shape ``(2, N, K / 2)``, or None for none.
            unread: Number U of leading tokens that the others attend to, but whose own output is not needed.

        Returns:
            Tokens, shape ``(B, N - U, D)``.
        """
        q, k, v = self._queries_keys_values(x, rope, unread)
        dropout = self.attn_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _queries_keys_values(self, x: Tensor, rope: Tensor | None, unread: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised and rotated queries ``(B, A, N - U, K)`` and keys, and values, both ``(B, A, N, K)``."""
        if rope is not None and type(self.q_norm) is RMSNorm and type(self.k_norm) is RMSNorm and fuses(x):
            from jitflow.kernels.rotary_qkv import rotary_qkv

            of_heads = (self.q_norm.weight, self.k_norm.weight, rope, self.num_heads, unread)
            # The kernel adds the bias where it can, since it also sums its gradient.
            plain = is_plain_linear(self.qkv)
            qkv, bias = (F.linear(x, self.qkv.weight), self.qkv.bias) if plain else (self.qkv(x), None)
            return rotary_qkv(qkv, bias, *of_heads, eps=self.q_norm.eps)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q[:, :, unread:]), self.k_norm(k)
        if rope is not None:
            q, k = apply_rope(q, rope[:, unread:], in_order=False), apply_rope(k, rope, in_order=False)
        return q, k, v


def _head_norm(head_dim: int, kind: Literal["rms", "layer"] | None) -> nn.Module:
    if kind is None:
        return nn.Identity()
    return RMSNorm(head_dim) if kind == "rms" else nn.LayerNorm(head_dim)
