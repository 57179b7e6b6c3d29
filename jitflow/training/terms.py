"""Losses besides the velocity's, which a module adds up: one small object for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from jitflow.core.loss import cosine_per_sample
from jitflow.errors import ConfigError


@dataclass(frozen=True)
class FlowState:
    """What is known in a training step once the network has predicted.

    Attributes:
        data: What the codec encoded, shape ``(B, *)``; None where only the model space was given.
        x1: Data in the model space, shape ``(B, C, H, W)``.
        x_t: Path sample, shape ``(B, C, H, W)``.
        t: Time, shape ``(B,)``.
        output: The network's output, shape ``(B, C, H, W)``, float32.
        v_pred: Predicted velocity, shape ``(B, C, H, W)``.
        v_t: True velocity, shape ``(B, C, H, W)``.
        weight: Weight of each element, broadcastable to ``(B, C, H, W)``; None for all alike.
    """

    data: Any
    x1: Tensor
    x_t: Tensor
    t: Tensor
    output: Tensor
    v_pred: Tensor
    v_t: Tensor
    weight: Tensor | None = None


class LossTerm(Protocol):
    """A loss that is added to the velocity's.

    Attributes:
        name: What it is logged as, ``train/<name>``.
        weight: Its factor in the sum.
    """

    name: str
    weight: float

    def __call__(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32, without the factor."""
        ...


class CosineTerm:
    """Direction of the velocity, the LightningDiT release's second loss.

    See :func:`jitflow.core.loss.cosine_per_sample`.

    Args:
        weight: Its factor.

    Raises:
        ConfigError: If the factor is negative.
    """

    name = "cosine"

    def __init__(self, weight: float = 1.0) -> None:
        if not weight >= 0:
            raise ConfigError(f"the weight of a loss term must not be negative; got {weight}")
        self.weight = weight

    def __call__(self, state: FlowState) -> Tensor:
        """Compare directions, shape ``(B,)``."""
        return cosine_per_sample(state.v_pred, state.v_t)
