"""Losses of a flow: the main loss on velocity, data or noise, and the terms that are added to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from jitflow.core.condition import Condition
from jitflow.core.loss import mse_per_sample
from jitflow.core.path import (
    Prediction,
    convert_velocity,
    data_from_velocity,
    interpolate,
    perfect_prediction,
    velocity_from_prediction,
)
from jitflow.core.times import TimeDistribution, TimeKind
from jitflow.training.sampling import FlowSampling
from jitflow.training.terms import Draws, FlowState, LossTerm
from jitflow.training.velocity import batch_time, floating_dtype


class FlowLoss(FlowSampling):
    """Losses of :class:`jitflow.training.module.FlowModule`, which sets the attributes.

    Attributes:
        loss_on: Space of the main loss: ``velocity``, ``data`` or ``noise``.
        velocity_weight: Factor of the main loss.
        P_mean: Mean of the logit of the training times.
        P_std: Standard deviation of the logit of the training times.
        time_kind: Distribution of the training times.
    """

    loss_on: Prediction
    velocity_weight: float
    P_mean: float
    P_std: float
    time_kind: TimeKind

    def add_loss_term(self, term: LossTerm) -> None:
        """Add a loss to the main loss, before the training starts.

        Args:
            term: The term. A :class:`~jitflow.training.terms.LossModule` can own parameters.

        Raises:
            ConfigError: If its name is taken, or the network offers no inner feature that it reads.
        """
        self.loss_terms.add(term, self)

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        y: Tensor,
        hint: Tensor | None = None,
        *,
        features: Sequence[str] = (),
    ) -> Any:
        """Predict from a noisy sample.

        Args:
            x: Path sample, shape ``(B, C, H, W)``.
            t: Time: a number, 0-d, ``(B,)`` or ``(B, 1, 1, 1)``; 0 is noise, 1 is data.
            y: Labels, shape ``(B,)``, int64.
            hint: Known parts or estimate of the data, shape ``(B, C, H, W)``, for a network with self-conditioning.
            features: Names of inner features to return too.

        Returns:
            Prediction, shape ``(B, C, H, W)``, in the network's precision; with ``features`` also these, by name.
        """
        dtype = floating_dtype(self.net)
        further = {"features": features} if features else {}
        if hint is None:
            return self.net(x.to(dtype), batch_time(t, x), y, **further)
        return self.net(x.to(dtype), batch_time(t, x), y, hint.to(dtype), **further)

    def sample_timestep(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """Draw training times, shape ``(n, 1, 1, 1)``, ready to broadcast over images."""
        return self._time_distribution().sample(n, device=device).view(-1, 1, 1, 1)

    def _time_distribution(self) -> TimeDistribution:
        return TimeDistribution(self.time_kind, self.P_mean, self.P_std)

    def flow_loss(self, x1: Tensor, labels: Tensor, t: Tensor, unit_noise: Tensor, **further: Any) -> Tensor:
        """Compute the loss of each sample for given time and noise: the sum of :meth:`loss_parts`, shape ``(B,)``."""
        parts = self.loss_parts(x1, labels, t, unit_noise, **further)
        return torch.stack(list(parts.values())).sum(dim=0)

    def loss_parts(
        self,
        x1: Tensor,
        labels: Tensor,
        t: Tensor,
        unit_noise: Tensor,
        *,
        data: Any = None,
        condition: Condition | None = None,
        estimate: bool = True,
        classes: Tensor | None = None,
        draws: Draws | None = None,
    ) -> dict[str, Tensor]:
        """Compute every loss term of each sample for given time and noise.

        Args:
            x1: Data in the model space, shape ``(B, C, H, W)``.
            labels: Labels for the network, after label dropout, shape ``(B,)``.
            t: Time, shape ``(B,)``.
            unit_noise: Noise of standard deviation 1, shape ``(B, C, H, W)``.
            data: Data before encoding, for weights and terms that need them.
            condition: Known parts of the data; they stay clean and are excluded from the loss.
            estimate: Self-condition the network on its own estimate, as in sampling.
            classes: Labels of the data, before label dropout, shape ``(B,)``; for terms that need them.
            draws: Random numbers of the terms, see :meth:`~jitflow.training.terms.LossTerms.draw`.

        Returns:
            By name, each of shape ``(B,)``, float32: the main loss, named by its space (``velocity``), a mean squared
            error; and the weighted terms.
        """
        condition = condition or Condition()
        x0 = unit_noise * self.noise_scale
        x_t = condition.apply_known(interpolate(x0, x1, t))
        hints = (self._training_hint(x_t, t, labels, condition, estimate=estimate),) if self.takes_hints else ()
        output, inner = self._predict_with_features(x_t, t, labels, *hints)
        v_pred = self.velocity_of(output, x_t, t)
        v_t = self.true_velocity(x0, x1, x_t, t)
        weight = condition.unknown_weight(self.loss_weight(data), x1)
        pred, target = (convert_velocity(v, x_t, t, to=self.loss_on, t_eps=self.t_eps) for v in (v_pred, v_t))
        parts = {str(self.loss_on): self.velocity_weight * mse_per_sample(pred, target, weight=weight)}
        if len(self.loss_terms):

            def velocity_at(x: Tensor, time: Tensor) -> Tensor:
                with torch.no_grad():
                    return self.velocity_of(self(x, time, labels, *hints).float(), x, time)

            state = FlowState(
                data, x1, x_t, t, output, v_pred, v_t, weight, labels, classes, inner, draws or {}, velocity_at
            )
            parts.update(self.loss_terms.losses(state))
        return parts

    def _predict_with_features(self, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the network; return its output in float32, and the inner features that loss terms read, by name."""
        wanted = self.loss_terms.features
        if not wanted:
            return self(*inputs).float(), {}
        output, inner = cast("tuple[Tensor, dict[str, Tensor]]", self(*inputs, features=wanted))
        return output.float(), inner

    def true_velocity(self, x0: Tensor, x1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the velocity that an ideal network's prediction gives, shape ``(B, C, H, W)``.

        Args:
            x0: Noise, shape ``(B, C, H, W)``.
            x1: Data in the model space, shape ``(B, C, H, W)``.
            x_t: Path sample, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``.
        """
        if self.asym is not None:
            return self.asym.velocity(self.asym.target(x0, x1), x_t, t, self.t_eps)
        target = perfect_prediction(x0, x1, prediction=self.prediction)
        return velocity_from_prediction(target, x_t, t, prediction=self.prediction, t_eps=self.t_eps)

    def _training_hint(self, x_t: Tensor, t: Tensor, labels: Tensor, condition: Condition, *, estimate: bool) -> Tensor:
        """Return the self-conditioning input in training: the known parts, and the network's estimate if requested."""
        hint = condition.apply_known(self.first_hint(x_t, t))
        if not estimate:
            return hint
        with torch.no_grad():
            v = self.velocity_of(self(x_t, t, labels, hint).float(), x_t, t)
            return condition.apply_known(data_from_velocity(v, x_t, t, t_eps=self.t_eps))

    def loss_weight(self, data: Any) -> Tensor | None:
        """Return the loss weight of each element, broadcastable to ``(B, C, H, W)``; applications may override it.

        Args:
            data: Data before encoding.
        """
        return None

    def training_condition(self, x1: Tensor, t: Tensor, batch: Any) -> tuple[Condition, Tensor]:
        """Return known parts and times of a training batch: nothing and ``t``, unless overridden.

        Args:
            x1: Data in the model space, shape ``(B, C, H, W)``.
            t: Times drawn, shape ``(B,)``.
            batch: Batch from the data module.
        """
        return Condition(), t
