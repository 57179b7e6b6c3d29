"""Transformer block and final layer, modulated by a condition (adaLN-Zero).

Shapes: B batch, N tokens, U of them unread, D width, P patch side, C channels, K head dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from jitflow.layers.norm import block_norm
from jitflow.layers.stream import Stream


class AdaLNBlock(nn.Module):
    """Transformer block: attention and feed-forward layer, each normalised, modulated and gated by the condition.

    Args:
        dim: D.
        attn: Layer ``(tokens, rope, unread) -> tokens``.
        mlp: Layer ``tokens -> tokens``.
        rms: Whether to use RMSNorm instead of LayerNorm.
        shift: Whether the condition also shifts, not only scales.
        norms_first: Register both norms before both layers, as the LightningDiT release does; else each before its
            layer, as the JiT release does. This sets the order of state dicts and optimiser states.

    References:
        Peebles & Xie 2022, arXiv:2212.09748, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        *,
        rms: bool = True,
        shift: bool = True,
        norms_first: bool = True,
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = block_norm(dim, rms=rms)
        if norms_first:
            self.norm2 = block_norm(dim, rms=rms)
        self.attn = attn
        if not norms_first:
            self.norm2 = block_norm(dim, rms=rms)
        self.mlp = mlp
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, (6 if shift else 4) * dim))

    def forward(
        self,
        stream: Stream,
        c: Tensor | None,
        rope: Tensor | None,
        modulation: Tensor | None = None,
        unread: int = 0,
    ) -> Stream:
        """Transform tokens.

        Args:
            stream: Tokens, shape ``(B, N, D)``, and the output of the layer before that is still to be added.
            c: Condition, shape ``(B, D)``; ignored if ``modulation`` is given.
            rope: Rotation table, shape ``(2, N, K / 2)``, or None for none.
            modulation: ``adaLN_modulation(c)`` computed before, shape ``(B, 6 D)`` (``(B, 4 D)`` without shifts),
                or ``(1, ...)`` for one that all samples share.
            unread: Number U of leading tokens that the others attend to, but whose own output is not needed.

        Returns:
            Tokens, shape ``(B, N - U, D)``, and the feed-forward layer's output that is still to be added.
        """
        if modulation is None:
            modulation = self.adaLN_modulation(c)
        shift_msa: Tensor | None = None
        shift_mlp: Tensor | None = None
        if self.shift:
            shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=-1)
        else:
            scale_msa, gate_msa, scale_mlp, gate_mlp = modulation.chunk(4, dim=-1)
        x, normed = stream.normed(self.norm1, shift_msa, scale_msa)
        attended = self.attn(normed, rope, unread)
        x, normed = Stream(x[:, unread:], attended, gate_msa).normed(self.norm2, shift_mlp, scale_mlp)
        return Stream(x, self.mlp(normed), gate_mlp)


class AdaLNFinal(nn.Module):
    """Final layer, which maps tokens to patches.

    Args:
        dim: D.
        patch_size: P.
        out_channels: C.
        rms: Whether to use RMSNorm instead of LayerNorm.
    """

    def __init__(self, dim: int, patch_size: int, out_channels: int, *, rms: bool = True) -> None:
        super().__init__()
        self.norm_final = block_norm(dim, rms=rms)
        self.linear = nn.Linear(dim, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, stream: Stream, c: Tensor | None, modulation: Tensor | None = None) -> Tensor:
        """Map tokens to patches.

        Args:
            stream: Tokens, shape ``(B, N, D)``, and the output of the last block that is still to be added.
            c: Condition, shape ``(B, D)``; ignored if ``modulation`` is given.
            modulation: ``adaLN_modulation(c)`` computed before, shape ``(B, 2 D)`` or ``(1, 2 D)``.

        Returns:
            Patches, shape ``(B, N, P * P * C)``.
        """
        if modulation is None:
            modulation = self.adaLN_modulation(c)
        shift, scale = modulation.chunk(2, dim=-1)
        return self.linear(stream.normed(self.norm_final, shift, scale)[1])
