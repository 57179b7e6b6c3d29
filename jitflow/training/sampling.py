"""Sampling from noise, in methods that users may override one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jitflow.core.condition import Condition
from jitflow.core.condition_table import class_of
from jitflow.core.path import renoise
from jitflow.core.seeding import current_seeds, mix_seeds, noise_from_seeds
from jitflow.core.solver import GoBack, OnStep, Step, Velocity, euler_step, get_solver, heun_step, integrate
from jitflow.core.stochastic import sde_drift, sde_noise_std
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError
from jitflow.training.compiled import is_launch_bound
from jitflow.training.evaluation_graphs import FEWEST_EVALUATIONS, EvaluationGraphs
from jitflow.training.modulation import ModulationTable, takes_modulation
from jitflow.training.sampling_call import SamplingCall, open_call
from jitflow.training.velocity import GuidedVelocity, batch_time


class FlowSampling(GuidedVelocity):
    """Sampling methods of :class:`jitflow.training.module.FlowModule`, which sets the attributes."""

    @property
    def takes_temperature(self) -> bool:
        """Whether the model has log-probabilities that a temperature can divide."""
        return False

    @property
    def adds_noise(self) -> bool:
        """Whether sampling adds noise between its steps."""
        return bool(self.churn or self.sde) or get_solver(self.sampling_method).renoises

    def first_hint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the initial hint of a self-conditioned network: zeros, unless overridden.

        Args:
            x_t: Path sample, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``.

        Returns:
            A first estimate of the data, shape ``(B, C, H, W)``, float32.
        """
        return torch.zeros_like(x_t)

    @torch.no_grad()
    def generate(self, labels: Tensor, use_ema: bool = True) -> Tensor:
        """Draw one sample for each label.

        Seeds come from :func:`jitflow.core.seeding.use_seeds`; without it they are fresh.

        Args:
            labels: Classes, shape ``(B,)``, int64, in ``[0, num_classes]``; ``num_classes`` means "any". For a model
                with named conditions also class and codes, ``(B, 1 + K)``; without codes any condition.
            use_ema: Sample from the first average of the weights instead of the weights; without an
                average the weights are used, with one warning.

        Returns:
            Samples in the model space, shape ``(B, C, H, W)``, float32, nominally in ``[-1, 1]``.

        Raises:
            ConfigError: If a label or a sampling attribute is out of range.
        """
        return self.generate_condition(Condition(label=labels), use_ema=use_ema)

    @torch.no_grad()
    def generate_condition(
        self, condition: Condition, *, use_ema: bool = True, start: tuple[Tensor, float] | None = None
    ) -> Tensor:
        """Draw samples under any condition; :meth:`generate` for one with a label only.

        Args:
            condition: Condition with a label, shape ``(B,)``; known parts of the state stay fixed.
            use_ema: As in :meth:`generate`.
            start: A state, shape ``(B, C, H, W)``, and its time in ``[0, 1)``, to start from along the rest of the
                grid; None for noise at time 0.

        Returns:
            Samples in the model space, shape ``(B, C, H, W)``, float32.

        Raises:
            ConfigError: If the label is missing, or the start is out of range.
        """
        if condition.label is None:
            raise ConfigError('sampling needs a label for each sample; pass num_classes for "any class"')
        self.check_start(start is not None)
        labels = self.check_labels(condition.label)
        weights = self.ema_weights() if use_ema and self._has_ema() else self.present_weights()
        with open_call(self, condition=condition) as call, self.evaluation_mode(), weights:
            self.check_guidance()
            times = time_grid(self.num_sampling_steps, shift=self.time_shift)
            seeds = current_seeds(len(labels))
            if start is None:
                x = self.noise_scale * noise_from_seeds(self.codec.shape, seeds, device=self.device)
            else:
                x, times = self._start_at(*start, times, len(labels))
            x = condition.apply_known(x)
            if self.takes_hints:
                call.hint = condition.apply_known(self.first_hint(x, batch_time(times[0], x)))
            steps = self._overridden_steps(labels, condition)
            call.rule = self.build_guidance_rule()
            call.modulation = None if steps else self._modulation_table(labels, times)
            if self.sde and steps:
                raise ConfigError("sde needs the library's own steps, and this class overrides them; set it to 0")
            call.drift = self._drift_of_step(0, times)
            call.graphs = self._evaluation_graphs(call, len(labels), len(times) - 1)
            return integrate(
                self._field(call, labels),
                x,
                times,
                solver=self.sampling_method,
                on_step=call.on_step,
                go_back=self._go_back(call, seeds, times) if self.adds_noise else None,
                **steps,
            )

    def _field(self, call: SamplingCall, labels: Tensor) -> Velocity:
        """Return the velocity of the flow, or the drift of the stochastic equation."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            v = self._forward_sample(x, t, labels)
            if call.drift:
                v = sde_drift(v, x, t, call.drift)
            return call.condition.freeze_known(v)

        return velocity

    def _drift_of_step(self, step: int, times: Tensor) -> float:
        """Return the strength of the stochastic equation in a step; the last one follows the flow."""
        return self.sde if step < len(times) - 2 else 0.0

    def _start_at(self, x: Tensor, t: float, times: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """Return the state and the remaining times of sampling from an intermediate state."""
        if x.shape != (num, *self.codec.shape):
            raise ConfigError(f"the state to start from must have shape {(num, *self.codec.shape)}; got {(*x.shape,)}")
        if not 0 <= t < 1:
            raise ConfigError(f"the time to start from must lie in [0, 1); got {t}")
        return x.to(self.device, torch.float32), torch.cat([torch.tensor([t]), times[times > t]])

    def _modulation_table(self, labels: Tensor, times: Tensor) -> ModulationTable | None:
        """Build the modulation table of a call; None if the network takes none or a user overrides the methods."""
        if not takes_modulation(self.net) or _overrides(self, "_forward_sample") or not _forwards_to_net(self):
            return None
        if self.cfg_scale != 1:
            labels = torch.cat([labels, self.unconditional_labels(labels, self.guide_by)])
        # No solver evaluates the end of the path.
        return ModulationTable(self.net, labels, times[:-1])

    def _evaluation_graphs(self, call: SamplingCall, batch: int, steps: int) -> EvaluationGraphs | None:
        """Return graphs for a call on CUDA whose limit is launching kernels; None where anything but tensors changes.

        A user's own methods, a hook or the memory of a guidance rule may do what a graph would not repeat.
        """
        passes = 1 if self.cfg_scale == 1 else 2
        if self.device.type != "cuda" or not is_launch_bound(self.net, passes * batch, passes=1):
            return None
        if get_solver(self.sampling_method).num_evaluations(steps) < FEWEST_EVALUATIONS:
            return None
        repeats = call.modulation is not None and call.weak is None and not self.converts_predictions
        plain = self.internal_guidance == 1 and not (self.guidance_rule == "apg" and self.apg_momentum)
        return EvaluationGraphs() if repeats and plain and not _has_hooks(self.net) else None

    @torch.no_grad()
    def _euler_step(self, z: Tensor, t: Tensor, t_next: Tensor, labels: Tensor) -> Tensor:
        """One Euler step of the state ``(B, C, H, W)`` between two times, 0-d or alike for all, ``(B, 1, 1, 1)``."""
        return euler_step(lambda x, s: self._forward_sample(x, s, labels), z, _one_time(t), _one_time(t_next))

    @torch.no_grad()
    def _heun_step(self, z: Tensor, t: Tensor, t_next: Tensor, labels: Tensor) -> Tensor:
        """One Heun step of the state ``(B, C, H, W)`` between two times, 0-d or alike for all, ``(B, 1, 1, 1)``."""
        return heun_step(lambda x, s: self._forward_sample(x, s, labels), z, _one_time(t), _one_time(t_next))

    def _go_back(self, call: SamplingCall, seeds: Sequence[int], times: Tensor) -> GoBack:
        """Return the function that adds seeded noise to the state between two steps."""

        def go_back(step: int, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
            noise = noise_from_seeds(self.codec.shape, [mix_seeds(s, step) for s in seeds], device=x.device)
            if self.sde:
                before = float(times[step - 1])
                std = sde_noise_std(before, float(t), strength=self.sde, noise_scale=self.noise_scale)
                call.drift = self._drift_of_step(step, times)
                return call.condition.apply_known(x + std * noise), t
            t_back = (t - self.churn * (t_next - t)).clamp_min(0)
            # The step has reached the data.
            t = torch.ones_like(t) if get_solver(self.sampling_method).renoises else t
            now, back = (time.expand(len(x)) for time in (t, t_back))
            return call.condition.apply_known(renoise(x, now, back, noise, noise_scale=self.noise_scale)), t_back

        return go_back

    def _overridden_steps(self, labels: Tensor, condition: Condition) -> dict[str, Step]:
        """Return solver steps that a subclass overrides, with the known part of the state restored after each."""
        steps: dict[str, Step] = {}

        def method_step(name: str) -> Step:
            def step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
                return condition.apply_known(getattr(self, name)(x, t, t_next, labels))

            return step

        main = f"_{self.sampling_method}_step"
        if _overrides(self, main):
            steps["step"] = method_step(main)
        if _overrides(self, "_euler_step"):
            steps["last_step"] = method_step("_euler_step")
        return steps

    @contextmanager
    def sampling(self, *, on_step: OnStep | None = None, **given: Any) -> Iterator[SamplingCall]:
        """Override sampling settings inside the block, in this thread only.

        Blocks nest: settings that are not given come from the outer block, whose ``on_step`` is called first.

        Args:
            on_step: Called with (steps done, total steps, time, state) after each step.
            given: Settings by attribute name, such as ``cfg_scale``.

        Raises:
            ConfigError: If a setting is out of range.
        """
        with open_call(self, on_step=on_step, **given) as call:
            yield call

    @contextmanager
    def watch_sampling(self, on_step: OnStep) -> Iterator[None]:
        """Call ``on_step(steps done, total steps, time, state)`` after each sampling step inside the block."""
        with self.sampling(on_step=on_step):
            yield

    def check_start(self, is_given: bool) -> None:
        """Raise ConfigError if a model of transport is to start from noise, or to add noise.

        Args:
            is_given: Whether there are images to start from.
        """
        if not self.transports:
            return
        if not is_given:
            raise ConfigError("this model carries images of one data set to another; give it some (source)")
        if self.adds_noise:
            raise ConfigError(
                "churn, sde and the consistency solver add noise, and the paths of this model have none; set churn and "
                "sde to 0, and use another solver"
            )

    def check_labels(self, labels: Tensor) -> Tensor:
        """Return labels on the module's device; raise ConfigError if the model knows no such label.

        Args:
            labels: Labels, shape ``(B,)``, or for a model with named conditions also ``(B, 1 + K)``.

        Returns:
            Labels of the shape that the network takes; conditions that are not given are null.
        """
        given = torch.as_tensor(labels, device=self.device)
        self.check_classes(class_of(given) if given.ndim == 2 and self.conditions is not None else given)
        return self.complete_labels(given)

    def check_classes(self, labels: Tensor) -> None:
        """Raise ConfigError if the model knows no such class labels, shape ``(B,)``."""
        if labels.ndim != 1 or labels.is_floating_point():
            raise ConfigError(f"labels must be whole numbers of shape (B,); got {tuple(labels.shape)}, {labels.dtype}")
        wrong = labels[(labels < 0) | (labels > self.num_classes)]
        if len(wrong):
            raise ConfigError(
                f"label {int(wrong[0])} is out of range: this model has classes 0 to {self.num_classes - 1} "
                f"({self.num_classes} means any class)"
            )
        if self.num_classes and not self.trains_null and bool((labels == self.num_classes).any()):
            raise ConfigError(
                f"label {self.num_classes} (any class) is one that label_drop_prob 0 never trains; sample the classes "
                f"0 to {self.num_classes - 1}"
            )


def _one_time(t: Tensor | float) -> Tensor:
    """The 0-d time of a step, of any accepted form; ConfigError if the samples of a batch are at different times."""
    times = torch.as_tensor(t, dtype=torch.float32).flatten()
    if len(times) == 0 or not bool((times == times[0]).all()):
        raise ConfigError("t and t_next of a solver's step must be the same for the whole batch")
    return times[0]


def _overrides(module: FlowSampling, name: str) -> bool:
    method = getattr(module, name, None)
    return method is not None and getattr(method, "__func__", method) is not getattr(FlowSampling, name, None)


def _has_hooks(net: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def _forwards_to_net(module: FlowSampling) -> bool:
    """Whether ``forward`` is that of the direct subclass of FlowSampling, which only calls the network."""
    owner = next((c for c in type(module).__mro__ if "forward" in vars(c)), None)
    return "forward" not in vars(module) and owner is not None and FlowSampling in owner.__bases__
