"""Auxiliary class head: an inner block must tell the class of the clean image, before the network is told it.

References:
    Li & He 2025, arXiv:2511.13720, ablation of an auxiliary classification loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jitflow.errors import ConfigError
from jitflow.training.terms import FlowState, LossModule

if TYPE_CHECKING:
    from jitflow.training.loss import FlowLoss


class ClassHead(LossModule):
    """Cross-entropy of the class under a linear head on the mean token after a block.

    The label must not reach that block, or the head would only copy it: the network needs ``label_start``, the block
    from which it is told the class, at or after it.

    Args:
        weight: Factor in the sum of losses.
        block: Number of blocks after which the head reads; None for the last before the class is told.

    Raises:
        ConfigError: If the weight is negative.
    """

    name = "class_head"

    def __init__(self, weight: float = 0.1, block: int | None = None) -> None:
        super().__init__(weight)
        self.block = block

    def build(self, module: FlowLoss) -> None:
        """Create the head.

        Raises:
            ConfigError: If the model has no classes, or the label reaches the block.
        """
        if module.num_classes < 2:
            raise ConfigError(f"class_head needs two classes or more; the model has {module.num_classes}")
        start = getattr(module.net, "label_start", 0)
        self.block = start if self.block is None else self.block
        if not 0 < self.block <= start:
            raise ConfigError(
                f"class_head reads block {self.block}, where the network is already told the class; set "
                f"net_settings label_start, and in_context_start, to {max(1, self.block)} or later"
            )
        width = module.net.get_parameter("pos_embed").shape[-1]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, module.num_classes)

    @property
    def features(self) -> Sequence[str]:  # type: ignore[override]
        """Name of the inner feature: the tokens of the block."""
        return (f"block{self.block}",)

    def forward(self, state: FlowState) -> Tensor:
        """Compute the cross-entropy in nats of each sample, shape ``(B,)``; 0 if the classes are unknown."""
        if state.classes is None:
            return torch.zeros_like(state.t)
        tokens = state.features[f"block{self.block}"].float()
        return F.cross_entropy(self.head(self.norm(tokens.mean(1))), state.classes, reduction="none")
