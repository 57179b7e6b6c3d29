"""Velocity of a model at a state: its prediction, converted and guided, in methods that users may override."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from jitflow.codec.base import Codec
from jitflow.core.condition_table import ALL
from jitflow.core.guidance import check_interval, guidance_acts, guided_velocity
from jitflow.core.guidance_rules import Rule, build_rule
from jitflow.core.path import ModelPrediction, data_from_velocity, velocity_from_prediction
from jitflow.errors import ConfigError
from jitflow.training.averages import WeightAverages
from jitflow.training.conditioned_labels import ConditionedLabels
from jitflow.training.methods.asym import AsymmetricPrediction
from jitflow.training.sampling_call import CallSetting, SamplingCall, running_call
from jitflow.training.terms import LossTerms


class GuidedVelocity(WeightAverages, ConditionedLabels):
    """Velocity and guidance of :class:`jitflow.training.module.FlowModule`, which sets the attributes.

    Attributes:
        codec: Converts between data and the model space.
        net: The network.
        num_classes: Number of classes; this number is the null label.
        prediction: Prediction target of the network: ``data``, ``velocity`` or ``noise``.
        asym: Directions and conversions of the prediction ``asym``; None for another prediction.
        t_eps: Smallest ``1 - t`` that a data prediction is divided by.
        noise_scale: Standard deviation of the noise.
        label_drop_prob: Share of training labels replaced by the null label.
        transports: Whether paths begin from images of another data set in place of noise.
        sampling_method: Solver.
        num_sampling_steps: Steps of the solver.
        cfg_scale: Guidance scale.
        cfg_interval: Times (low, high) between which guidance acts.
        time_shift: Above 1 moves sampling times towards the noise.
        cfg_channels: Guide only this many leading channels; None guides all.
        guidance_rule: How conditional and unconditional velocity are combined: ``cfg``, ``apg`` or ``cfg_zero``.
        apg_eta: For ``apg``: factor of the part along the prediction.
        apg_norm: For ``apg``: largest root mean square of the difference; 0 for no limit.
        apg_momentum: For ``apg``: factor of earlier differences.
        internal_guidance: Scale of the guidance by an inner layer; 1 for none.
        guide_by: What guidance leaves out of its second pass: ``all``, or names of conditions.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        sde: Strength of the stochastic equation in place of the flow; 0 is deterministic.
        temperature: Divides log-probabilities if the model has them.

    Inside a sampling call, the attributes of :class:`~jitflow.training.sampling_settings.SamplingSettings` have the
    call's values: an overridden method reads the caller's guidance scale in ``self.cfg_scale``, and threads that sample
    from one module do not affect each other.
    """

    codec: Codec
    net: nn.Module
    num_classes: int
    prediction: ModelPrediction
    asym: AsymmetricPrediction | None
    t_eps: float
    noise_scale: float
    label_drop_prob: float
    transports: bool = False
    loss_terms: LossTerms
    sampling_method = CallSetting[str]()
    num_sampling_steps = CallSetting[int]()
    cfg_scale = CallSetting[float]()
    cfg_interval = CallSetting[tuple[float, float]]()
    time_shift = CallSetting[float]()
    cfg_channels = CallSetting["int | None"]()
    guidance_rule = CallSetting[str]()
    apg_eta = CallSetting[float]()
    apg_norm = CallSetting[float]()
    apg_momentum = CallSetting[float]()
    internal_guidance = CallSetting[float]()
    guide_by = CallSetting[str]()
    churn = CallSetting[float]()
    sde = CallSetting[float]()
    temperature = CallSetting[float]()

    @property
    def takes_hints(self) -> bool:
        """Whether the network takes a hint: known parts or an estimate of the data (self-conditioning)."""
        return bool(getattr(self.net, "self_conditioning", False))

    @torch.no_grad()
    def _forward_sample(self, z: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        """Compute the guided velocity at a state.

        Args:
            z: State, shape ``(B, C, H, W)``.
            t: Time: a number, 0-d, ``(B,)`` or ``(B, 1, 1, 1)``.
            labels: Labels, shape ``(B,)``, int64; of a model with named conditions ``(B, 1 + K)``, float32.

        Returns:
            Velocity, shape ``(B, C, H, W)``, float32.
        """
        call = running_call(self)
        x, times = z.float(), batch_time(t, z, keep_device=True)
        acts = guidance_acts(times, self.cfg_scale, check_interval(self.cfg_interval))
        null = self.unconditional_labels(labels, self.guide_by)
        if call is None:
            return self._evaluate_field(None, labels, null, acts, x, times, None, None)[0]
        modulations = None if call.modulation is None else call.modulation.at(times)
        evaluate = partial(self._evaluate_field, call, labels, null, acts)
        if call.graphs is not None:
            v, call.hint = call.graphs(acts, evaluate, x, times, modulations, call.hint)
        else:
            v, call.hint = evaluate(x, times, modulations, call.hint)
        return v

    def _evaluate_field(
        self,
        call: SamplingCall | None,
        labels: Tensor,
        null: Tensor,
        acts: bool,
        x: Tensor,
        t: Tensor,
        modulations: Tensor | None,
        hint: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the guided velocity, and the next hint, from tensors alone, so that a CUDA graph can repeat it.

        Args:
            call: The sampling call.
            labels: Labels, shape ``(B,)`` or ``(B, 1 + K)``.
            null: Labels of the second pass of guidance, of the same shape.
            acts: Whether guidance acts at this time.
            x: State, shape ``(B, C, H, W)``, float32.
            t: Time, shape ``(B,)``.
            modulations: Those of the call's table at this time; None without a table.
            hint: Estimate of the data, shape ``(B, C, H, W)``, for a self-conditioned network.
        """

        def velocity(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            if hint is None:
                return self._inner_velocity(call, modulations, x, t, y)
            # With guidance both passes share the hint.
            hints = hint if len(hint) == len(x) else torch.cat([hint] * (len(x) // len(hint)))
            return self._inner_velocity(call, modulations, x, t, y, hints)

        v = guided_velocity(
            velocity,
            x,
            t,
            labels,
            null_label=null,
            scale=self.cfg_scale,
            interval=check_interval(self.cfg_interval),
            channels=self.cfg_channels,
            rule=self.build_guidance_rule() if call is None or call.rule is None else call.rule,
            weak=None if call is None or call.weak is None else call.weak.plain_velocity,
            acts=acts,
        )
        if call is not None and hint is not None:
            hint = call.condition.apply_known(data_from_velocity(v, x, t, t_eps=self.t_eps))
        return v, hint

    def plain_velocity(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the velocity without guidance, shape ``(B, C, H, W)``, float32; shapes as in :meth:`forward`."""
        return self.velocity_of(self(x, t, y).float(), x, t)

    def build_guidance_rule(self) -> Rule:
        """Return the rule of guidance for a new trajectory."""
        apg = {"eta": self.apg_eta, "norm": self.apg_norm, "momentum": self.apg_momentum}
        return build_rule(self.guidance_rule, **apg)

    def _inner_velocity(
        self, call: SamplingCall | None, modulations: Tensor | None, x: Tensor, t: Tensor, y: Tensor, *hint: Tensor
    ) -> Tensor:
        """Compute the velocity of one pass of the network, guided by an inner layer if that is asked for."""
        guide, scale = self.loss_terms.guide, self.internal_guidance
        if guide is None or scale == 1:
            return self.velocity_of(self._predict(call, modulations, x, t, y, *hint).float(), x, t)
        output, inner = self._predict(call, modulations, x, t, y, *hint, features=tuple(guide.features))
        v = self.velocity_of(output.float(), x, t)
        return guide.guide(v, inner, x, t, scale, check_interval(self.cfg_interval))

    def _predict(
        self,
        call: SamplingCall | None,
        modulations: Tensor | None,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        *hint: Tensor,
        **inner: Any,
    ) -> Any:
        """Run the network, output shape ``(B, C, H, W)``, with precomputed modulation if the call has a table."""
        if call is None or call.modulation is None or modulations is None:
            return self(x, t, y, *hint, **inner)
        dtype = floating_dtype(self.net)
        rows = call.modulation.of_samples(modulations, y)
        # The network reads the time only for the inner features, so that it can else stay on its device.
        t = t.to(x.device) if inner else t
        return self.net(x.to(dtype), t, y, *(h.to(dtype) for h in hint), modulation=rows, **inner)

    @property
    def converts_predictions(self) -> bool:
        """Whether the model converts predictions to velocities in a way of its own."""
        return self.asym is not None or type(self).velocity_of is not GuidedVelocity.velocity_of

    def velocity_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Convert the network's prediction to a velocity, in training and sampling.

        Args:
            output: Prediction, shape ``(B, C, H, W)``, float32.
            x_t: Path sample, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``.

        Returns:
            Velocity, shape ``(B, C, H, W)``.
        """
        if self.asym is not None:
            return self.asym.velocity(output, x_t, t, self.t_eps)
        return velocity_from_prediction(output, x_t, t, prediction=self.prediction, t_eps=self.t_eps)

    def check_guidance(self) -> None:
        """Check that the model can be guided as its settings say.

        Raises:
            ConfigError: If the guidance scale is not 1 and the network was never trained without labels, or internal
                guidance is asked of a model that was not trained for it.
        """
        if self.internal_guidance != 1 and self.loss_terms.guide is None:
            raise ConfigError(
                f"internal_guidance {self.internal_guidance:g} needs the second final layer of the loss term "
                "internal_guidance, which this model was trained without; leave it at 1"
            )
        self.check_guide_by(self.guide_by)
        call = running_call(self)
        if call is not None and call.weak is not None:
            return
        if self.cfg_scale != 1 and self.guide_by == ALL and not self.label_drop_prob > 0:
            raise ConfigError(
                f"guidance {self.cfg_scale:g} needs the null label, which label_drop_prob 0 never trains: use guidance "
                "(cfg_scale) 1, or train with label_drop_prob above 0"
            )


def batch_time(t: Tensor | float, x: Tensor, *, keep_device: bool = False) -> Tensor:
    """Convert a time of any accepted form to shape ``(B,)``, float32."""
    t = torch.as_tensor(t, dtype=torch.float32, device=None if keep_device else x.device)
    return t.reshape(-1).expand(x.shape[0]) if t.numel() == 1 else t.reshape(x.shape[0])


def floating_dtype(net: nn.Module) -> torch.dtype:
    """Precision of a network's first floating-point parameter; float32 without one."""
    for parameter in net.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32
