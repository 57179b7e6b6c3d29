"""PixelREPA: alignment through a masked adapter of two Transformer blocks, for networks on pixels.

Shapes: B batch, N tokens, D width, E features of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jitflow.errors import ConfigError
from jitflow.training.loss import FlowLoss
from jitflow.training.methods.alignment import Alignment, normalise_over_space
from jitflow.training.terms import FlowState


class PixelRepa(Alignment):
    """PixelREPA: a share of the tokens is masked, and two Transformer blocks restore the features of all.

    The adapter stands between the encoder's abstract features and the network's tokens, which must still hold pixels;
    without it, or without masking, alignment makes JiT worse.

    Args:
        encoder: Name of the encoder, see :func:`jitflow.training.methods.encoders.make_encoder`.
        mask_share: Share of the tokens that a learned token replaces, in ``[0, 1)``.
        num_blocks: Transformer blocks of the adapter.
        head_dim: Width of an attention head of the adapter.
        over_space: Standardise the encoder's features over space, as iREPA does.
        further: Further arguments of :class:`~jitflow.training.methods.alignment.Alignment`. A network without class
            tokens needs another ``feature``, such as ``block4``.

    Raises:
        ConfigError: If a number is out of range, or the network's width is no multiple of the heads'.

    References:
        arXiv:2603.14366: JiT-B/16 at 200 epochs, FID 4.37 becomes 4.00; 4.68 without masking.
    """

    name = "pixel_repa"
    own_feature, own_weight = "before_class_tokens", 0.1

    def __init__(
        self,
        encoder: str,
        *,
        mask_share: float = 0.2,
        num_blocks: int = 2,
        head_dim: int = 32,
        over_space: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(encoder, **further)
        if not 0 <= mask_share < 1:
            raise ConfigError(f"mask_share must be at least 0 and below 1; got {mask_share}")
        if num_blocks < 1:
            raise ConfigError(f"num_blocks must be at least 1; got {num_blocks}")
        self._mask_share, self._num_blocks, self._head_dim = mask_share, num_blocks, head_dim
        self._over_space = over_space

    def build(self, module: FlowLoss) -> None:
        """Read the encoder, and create the adapter and the token that masks."""
        super().build(module)
        width = module.net.get_parameter("pos_embed").shape[-1]
        self.mask_token = nn.Parameter(torch.zeros(width))
        # The tokens that are masked have lost their place; nothing else tells it to the adapter.
        self.register_buffer("positions", module.net.get_parameter("pos_embed").detach().clone(), persistent=False)

    def make_projector(self, width: int, num_features: int) -> nn.Module:
        """Create the adapter: Transformer blocks without a condition, then a linear layer."""
        if width % self._head_dim:
            raise ConfigError(f"head_dim {self._head_dim} of pixel_repa does not divide the network's width {width}")
        blocks = [
            nn.TransformerEncoderLayer(
                width,
                width // self._head_dim,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(self._num_blocks)
        ]
        return nn.Sequential(*blocks, nn.LayerNorm(width), nn.Linear(width, num_features))

    def draw(self, x1: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Draw which tokens are masked, ``(B, N)``: the same number in each image."""
        num_tokens = self._grid[0] * self._grid[1]
        order = torch.rand(len(x1), num_tokens, generator=generator).argsort(dim=1).argsort(dim=1)
        return {"is_masked": order < round(self._mask_share * num_tokens)}

    def project(self, tokens: Tensor, state: FlowState) -> Tensor:
        """Mask tokens ``(B, N, D)``, and restore the features of all, ``(B, N, E)``."""
        is_masked = state.draws[self.name]["is_masked"]
        blank = (self.mask_token + self.get_buffer("positions")).to(tokens.dtype)
        projected: Tensor = self.projector(torch.where(is_masked[..., None], blank, tokens))
        return projected

    def normalise(self, target: Tensor) -> Tensor:
        """Standardise the encoder's features ``(B, N, E)`` over the tokens, if asked."""
        return normalise_over_space(target) if self._over_space else target
