"""Consistency training: a trained model learns to reach the data in one step, without a teacher, a judge or a JVP.

The network is asked at two states of one noisy image, of which one is nearer to the data, and shall point to the same
data from both. The distance of the two shrinks in stages while training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jitflow.core.consistency import end_of_trajectory, nearer_to_data
from jitflow.core.loss import mse_per_sample, pseudo_huber
from jitflow.errors import ConfigError, check_count
from jitflow.training.terms import FlowState, LossModule

if TYPE_CHECKING:
    from jitflow.training.loss import FlowLoss

# As in arXiv:2310.14189, where it is 0.00054 times the root of the number of values.
_HUBER_SCALE = 5.4e-4
_MOST_STAGES = 20


class Consistency(LossModule):
    """Distance of the data that the network points to from a state, to those from a state nearer to the data.

    In stage k of ``stages``, the second state has gone the share ``2^-k`` of the remaining way to the data. Its side
    has no gradient. Begin from a trained model (``init_from``), and leave the main loss out (``velocity_weight`` 0):
    one network cannot both point to the mean of all data, which that loss asks for, and to one of them.

    Args:
        weight: Factor in the sum of losses.
        stages: Number of stages, of equal length; each halves the share.

    Raises:
        ConfigError: If a number is out of range.

    References:
        Geng et al. 2024, arXiv:2406.14548; Song & Dhariwal 2023, arXiv:2310.14189.
    """

    name = "consistency"

    def __init__(self, weight: float = 1.0, stages: int = 4) -> None:
        super().__init__(weight)
        if not isinstance(stages, int):
            raise ConfigError(f"stages of consistency must be a whole number; got {stages!r}")
        check_count("stages of consistency", stages, most=_MOST_STAGES)
        self._stages = stages

    def build(self, module: FlowLoss) -> None:
        """Keep the smallest remaining way that a loss is divided by."""
        self._t_eps = module.t_eps

    def share(self, progress: float) -> float:
        """Return the share of the way to the data between the two states.

        Args:
            progress: Share of the training that is done, in ``[0, 1]``.
        """
        stage = min(int(progress * self._stages) + 1, self._stages)
        return float(2.0**-stage)

    def draw(self, x1: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the share of each sample, ``(B,)``; nothing is random."""
        if self.progress is None:
            raise ConfigError("consistency goes by the share of the training that is done: set max_epochs or max_steps")
        return {"share": torch.full((len(x1),), self.share(self.progress))}

    def forward(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32: a pseudo-Huber distance over that of the times.

        Without the times, states near the noise outweigh those near the data, which all others learn from.
        """
        if state.velocity_at is None:
            raise ConfigError("consistency runs the network a second time: give its state velocity_at")
        share = state.draws[self.name]["share"]
        x_r, r = nearer_to_data(state.x_t, state.x1, state.t, share)
        target = end_of_trajectory(state.velocity_at(x_r, r), x_r, r).detach()
        reached = end_of_trajectory(state.v_pred, state.x_t, state.t)
        distance = pseudo_huber(mse_per_sample(reached, target, weight=state.weight), scale=_HUBER_SCALE)
        return distance / (share * (1 - state.t).clamp_min(self._t_eps))
