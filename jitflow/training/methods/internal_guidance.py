"""Internal guidance: a second final layer reads an inner block, and sampling steps away from what it predicts.

References:
    Internal Guidance 2025, arXiv:2512.24176: ``v = v_final + (w - 1) (v_final - v_inner)``, both from one call.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from jitflow.core.guidance import guidance_weight
from jitflow.core.loss import mse_per_sample
from jitflow.core.path import ModelPrediction, Prediction, convert_velocity, expand_time, velocity_from_prediction
from jitflow.errors import ConfigError
from jitflow.layers.features import CONDITION
from jitflow.layers.patch import unpatchify
from jitflow.layers.stream import Stream
from jitflow.layers.transformer import AdaLNTransformer
from jitflow.training.terms import FlowState, LossModule

if TYPE_CHECKING:
    from jitflow.training.loss import FlowLoss

# The paper reads block 8 of 28.
_DEPTH_SHARE = 8 / 28


class InternalGuidance(LossModule):
    """Loss of a second final layer that predicts the same from an inner block; its prediction guides the sampler.

    Args:
        weight: Factor in the sum of losses.
        block: Number of blocks after which the layer reads; None for 8/28 of the depth, as in the paper.

    Raises:
        ConfigError: If the weight is negative.
    """

    name = "internal_guidance"
    used_in_sampling = True

    def __init__(self, weight: float = 0.5, block: int | None = None) -> None:
        super().__init__(weight)
        self.block = block

    def build(self, module: FlowLoss) -> None:
        """Create the layer, a copy of the network's final one.

        Raises:
            ConfigError: If the network has no such block, or its class converts predictions in its own way.
        """
        net = module.net
        if not isinstance(net, AdaLNTransformer):
            raise ConfigError(f"internal guidance reads the blocks of an adaLN Transformer; got {type(net).__name__}")
        if module.converts_predictions:
            raise ConfigError(f"{type(module).__name__} converts predictions in its own way, without internal guidance")
        depth = len(net.blocks)
        self.block = max(1, round(_DEPTH_SHARE * depth)) if self.block is None else self.block
        if not 0 < self.block < depth:
            raise ConfigError(f"internal guidance reads one of the blocks 1 to {depth - 1}; got block {self.block}")
        self.final_layer = copy.deepcopy(net.final_layer)
        self.grid: tuple[int, int] = net.grid
        self.patch_size: int = net.patch_size
        self.prediction: ModelPrediction = module.prediction
        self.loss_on: Prediction = module.loss_on
        self.t_eps = module.t_eps

    @property
    def features(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the inner features: the tokens of the block, and the condition."""
        return (f"block{self.block}", CONDITION)

    def inner_velocity(self, features: Mapping[str, Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        """Compute the velocity that the inner layer predicts.

        Args:
            features: Inner features by name.
            x_t: Path sample, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``.

        Returns:
            Velocity, shape ``(B, C, H, W)``, float32.
        """
        patches = self.final_layer(Stream(features[f"block{self.block}"]), features[CONDITION])
        output = unpatchify(patches, self.grid, self.patch_size)[:, : x_t.shape[1]].float()
        return velocity_from_prediction(output, x_t, t, prediction=self.prediction, t_eps=self.t_eps)

    def guide(
        self,
        v: Tensor,
        features: Mapping[str, Tensor],
        x_t: Tensor,
        t: Tensor,
        scale: float,
        interval: tuple[float, float],
    ) -> Tensor:
        """Guide a velocity away from that of the inner layer: ``v + (w - 1) (v - v_inner)``.

        Args:
            v: Velocity of the network, shape ``(B, C, H, W)``.
            features: Inner features of the same call, by name.
            x_t: State, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``.
            scale: ``w``; 1 changes nothing.
            interval: Times (low, high) between which it acts.

        Returns:
            Velocity, shape ``(B, C, H, W)``.
        """
        weight = expand_time(guidance_weight(t, scale, interval), v)
        return v + (weight - 1) * (v - self.inner_velocity(features, x_t, t))

    def forward(self, state: FlowState) -> Tensor:
        """Compute the squared error of the inner layer's prediction, in the space of the main loss, shape ``(B,)``."""
        v_inner = self.inner_velocity(state.features, state.x_t, state.t)
        pred, target = (
            convert_velocity(v, state.x_t, state.t, to=self.loss_on, t_eps=self.t_eps) for v in (v_inner, state.v_t)
        )
        return mse_per_sample(pred, target, weight=state.weight)
