"""The residual stream between two layers of a Transformer.

Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from jitflow.layers.fusion import fuses, product_dtype
from jitflow.layers.norm import RMSNorm, modulate


class Stream(NamedTuple):
    """Tokens, and the gated output of the last layer that is still to be added to them.

    The next norm reads the sum anyway, so adding it there saves a pass over memory each way.

    Attributes:
        tokens: Shape ``(B, N, D)``.
        branch: Output of the last layer, shape ``(B, N, D)``; None for none.
        gate: Its gate, shape ``(B, D)`` or ``(1, D)``.
    """

    tokens: Tensor
    branch: Tensor | None = None
    gate: Tensor | None = None

    def added(self) -> Tensor:
        """Return the tokens with the last layer's output, shape ``(B, N, D)``."""
        if self.branch is None or self.gate is None:
            return self.tokens
        if fuses(self.tokens):
            from jitflow.kernels.residual_norm import gated_add

            return gated_add(self.tokens, self.branch, self.gate)
        return self.tokens + self.gate.unsqueeze(1) * self.branch

    def normed(self, norm: nn.Module, shift: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Add the last layer's output, normalise and modulate.

        Args:
            norm: The norm.
            shift: Shape ``(B, D)`` or ``(1, D)``, or None for none.
            scale: Shape ``(B, D)`` or ``(1, D)``.

        Returns:
            The tokens with the last layer's output, and their modulated norm, both of shape ``(B, N, D)``.
        """
        tokens = self.tokens
        if type(norm) is not RMSNorm or not fuses(tokens):
            tokens = self.added()
            return tokens, modulate(norm(tokens), shift, scale)
        from jitflow.kernels import residual_norm

        of_norm, kind = (norm.weight, shift, scale), product_dtype(tokens)
        if self.branch is None or self.gate is None:
            return tokens, residual_norm.norm_modulate(tokens, *of_norm, eps=norm.eps, dtype=kind)
        return residual_norm.gated_add_norm_modulate(tokens, self.branch, self.gate, *of_norm, eps=norm.eps, dtype=kind)
