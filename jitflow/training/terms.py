"""Loss terms that a module adds to the velocity loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from jitflow.core.loss import cosine_per_sample
from jitflow.errors import ConfigError


@dataclass(frozen=True)
class FlowState:
    """Tensors of a training step after the forward pass, for loss terms.

    Attributes:
        data: Data before encoding, shape ``(B, *)``; None if only the model space was given.
        x1: Data in the model space, shape ``(B, C, H, W)``.
        x_t: Path sample, shape ``(B, C, H, W)``.
        t: Time, shape ``(B,)``.
        output: The network's output, shape ``(B, C, H, W)``, float32.
        v_pred: Predicted velocity, shape ``(B, C, H, W)``.
        v_t: True velocity, shape ``(B, C, H, W)``.
        weight: Weight of each element, broadcastable to ``(B, C, H, W)``; None for equal weights.
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
    """A loss that is added to the velocity loss.

    A term that optimises the features of a judge, such as a Frechet distance, lists the names of the extractors as a
    further attribute, ``feature_spaces``; checkpoints keep them (:mod:`jitflow.training.trained_on`).

    Attributes:
        name: Name in the logs, ``train/<name>``.
        weight: Factor in the sum of losses.
    """

    name: str
    weight: float

    def __call__(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32, without its weight."""
        ...


class CosineTerm:
    """Cosine loss on the direction of the velocity, the LightningDiT release's second loss.

    See :func:`jitflow.core.loss.cosine_per_sample`.

    Args:
        weight: Factor in the sum of losses.

    Raises:
        ConfigError: If the weight is negative.
    """

    name = "cosine"

    def __init__(self, weight: float = 1.0) -> None:
        if not weight >= 0:
            raise ConfigError(f"the weight of a loss term must not be negative; got {weight}")
        self.weight = weight

    def __call__(self, state: FlowState) -> Tensor:
        """Compute the cosine loss of each sample, shape ``(B,)``."""
        return cosine_per_sample(state.v_pred, state.v_t)
