"""Dispersive loss: inner features of different samples repel each other.

References:
    Wang & He 2025, arXiv:2506.09027: ``log mean_ij exp(-|z_i - z_j|^2 / tau)``, a contrastive loss without positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jitflow.errors import ConfigError
from jitflow.training.terms import FlowState, LossModule

if TYPE_CHECKING:
    from jitflow.training.loss import FlowLoss


class DispersiveLoss(LossModule):
    """Loss that spreads the tokens of a batch after a block; it has no parameters.

    Distances are mean squared differences of all tokens of two samples, so that they do not grow with the width. Each
    process spreads its own batch.

    Args:
        weight: Factor in the sum of losses.
        block: Number of blocks after which the tokens are read; None for a quarter of the depth.
        temperature: ``tau``, positive.

    Raises:
        ConfigError: If a number is out of range.
    """

    name = "dispersive"

    def __init__(self, weight: float = 0.5, block: int | None = None, temperature: float = 0.5) -> None:
        super().__init__(weight)
        if not temperature > 0:
            raise ConfigError(f"the temperature of the dispersive loss must be positive; got {temperature}")
        self.block = block
        self.temperature = temperature

    def build(self, module: FlowLoss) -> None:
        """Choose the block."""
        depth = len(getattr(module.net, "blocks", ()))
        self.block = max(1, depth // 4) if self.block is None else self.block

    @property
    def features(self) -> Sequence[str]:  # type: ignore[override]
        """Name of the inner feature: the tokens of the block."""
        return (f"block{self.block}",)

    def forward(self, state: FlowState) -> Tensor:
        """Compute the loss of the batch, the same for each sample, shape ``(B,)``; 0 for a single sample."""
        z = state.features[f"block{self.block}"].flatten(1).float()
        # By products: a difference of each pair would need B^2 times the memory of the tokens.
        squares = z.square().mean(1)
        # Small differences between large sums matter; half precision would blur them.
        with torch.autocast(z.device.type, enabled=False):
            products = z @ z.mT / z.shape[1]
        distances = (squares[:, None] + squares - 2 * products).clamp_min(0)
        exponents = (-distances / self.temperature).flatten()
        return (torch.logsumexp(exponents, dim=0) - 2 * math.log(len(z))).expand(len(z))
