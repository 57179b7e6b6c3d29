"""From noise to samples, through methods that users may override one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from jitflow.codec.base import Codec
from jitflow.core.condition import Condition
from jitflow.core.guidance import check_interval, guided_velocity
from jitflow.core.path import Prediction, velocity_from_prediction
from jitflow.core.seeding import current_seeds, noise_from_seeds
from jitflow.core.solver import OnStep, Step, Velocity, euler_step, get_solver, heun_step, integrate
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError
from jitflow.training.averages import WeightAverages


class FlowSampling(WeightAverages):
    """The sampling half of :class:`jitflow.training.module.FlowModule`, which sets the attributes.

    Attributes:
        codec: Between data and the model space.
        num_classes: Number of classes; this number is the null label.
        prediction: What the network predicts.
        t_eps: Smallest ``1 - t`` that a data prediction is divided by.
        noise_scale: Standard deviation of the noise.
        sampling_method: Solver.
        num_sampling_steps: Steps of the solver.
        cfg_scale: Guidance scale.
        cfg_interval: Times (low, high) between which guidance acts.
        time_shift: Above 1 moves sampling times towards the noise.
    """

    codec: Codec
    num_classes: int
    prediction: Prediction
    t_eps: float
    noise_scale: float
    sampling_method: str
    num_sampling_steps: int
    cfg_scale: float
    cfg_interval: tuple[float, float]
    time_shift: float

    def __init__(self) -> None:
        super().__init__()
        self._on_step: OnStep | None = None

    @torch.no_grad()
    def generate(self, labels: Tensor, use_ema: bool = True) -> Tensor:
        """Draw one sample for each label.

        The seeds are those of :func:`jitflow.core.seeding.use_seeds`, else fresh ones.

        Args:
            labels: Classes, shape ``(B,)``, int64, in ``[0, num_classes]``; ``num_classes`` means "any".
            use_ema: Sample from the first average of the weights instead of the weights; without an
                average the weights are used and a warning says so once.

        Returns:
            Samples in the model space, shape ``(B, C, H, W)``, float32, nominally in ``[-1, 1]``.

        Raises:
            ConfigError: If a label or a sampling attribute is out of range.
        """
        return self.generate_condition(Condition(label=labels), use_ema=use_ema)

    @torch.no_grad()
    def generate_condition(self, condition: Condition, *, use_ema: bool = True) -> Tensor:
        """Draw samples under any condition; :meth:`generate` for one with a label only.

        Args:
            condition: Its label, shape ``(B,)``, must be there; known parts of the state stay as they are.
            use_ema: As in :meth:`generate`.

        Returns:
            Samples in the model space, shape ``(B, C, H, W)``, float32.
        """
        if condition.label is None:
            raise ConfigError('sampling needs a label for each sample; pass num_classes for "any class"')
        labels = self._check_labels(condition.label)
        self._check_sampling()
        times = time_grid(self.num_sampling_steps, shift=self.time_shift)
        noise = noise_from_seeds(self.codec.shape, current_seeds(len(labels)), device=self.device)
        x = condition.apply_known(self.noise_scale * noise)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return condition.freeze_known(self._forward_sample(x, t, labels))

        was_training = self.training
        self.eval()
        try:
            with self.ema_weights() if use_ema and self._has_ema() else nullcontext():
                return integrate(
                    velocity,
                    x,
                    times,
                    solver=self.sampling_method,
                    on_step=self._on_step,
                    **self._overridden_steps(labels, condition),
                )
        finally:
            self.train(was_training)

    @torch.no_grad()
    def _forward_sample(self, z: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        """Guided velocity at a state.

        Args:
            z: State, shape ``(B, C, H, W)``.
            t: Time: a number, 0-d, ``(B,)`` or ``(B, 1, 1, 1)``.
            labels: Labels, shape ``(B,)``.

        Returns:
            Velocity, shape ``(B, C, H, W)``, float32.
        """

        def velocity(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            output = self(x, t, y).float()
            return velocity_from_prediction(output, x, t, prediction=self.prediction, t_eps=self.t_eps)

        return guided_velocity(
            velocity,
            z.float(),
            batch_time(t, z, keep_device=True),
            labels,
            null_label=self.num_classes,
            scale=self.cfg_scale,
            interval=check_interval(self.cfg_interval),
        )

    @torch.no_grad()
    def _euler_step(self, z: Tensor, t: Tensor, t_next: Tensor, labels: Tensor) -> Tensor:
        """One Euler step of the state ``(B, C, H, W)`` between two 0-d times."""
        return euler_step(lambda x, s: self._forward_sample(x, s, labels), z, t, t_next)

    @torch.no_grad()
    def _heun_step(self, z: Tensor, t: Tensor, t_next: Tensor, labels: Tensor) -> Tensor:
        """One Heun step of the state ``(B, C, H, W)`` between two 0-d times."""
        return heun_step(lambda x, s: self._forward_sample(x, s, labels), z, t, t_next)

    def _overridden_steps(self, labels: Tensor, condition: Condition) -> dict[str, Step]:
        """Solver steps that a subclass replaced, with the known part of the state kept after each."""
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
    def watch_sampling(self, on_step: OnStep) -> Iterator[None]:
        """Call ``on_step(steps done, steps in all, time, state)`` after each step sampled inside the block."""
        before, self._on_step = self._on_step, on_step
        try:
            yield
        finally:
            self._on_step = before

    def _check_sampling(self) -> None:
        get_solver(self.sampling_method)
        if not math.isfinite(self.cfg_scale):
            raise ConfigError(f"the guidance scale must be a number; got {self.cfg_scale}")
        check_interval(self.cfg_interval)
        time_grid(self.num_sampling_steps, shift=self.time_shift)

    def _check_labels(self, labels: Tensor) -> Tensor:
        labels = torch.as_tensor(labels, device=self.device)
        if labels.ndim != 1 or labels.is_floating_point():
            raise ConfigError(f"labels must be whole numbers of shape (B,); got {tuple(labels.shape)}, {labels.dtype}")
        wrong = labels[(labels < 0) | (labels > self.num_classes)]
        if len(wrong):
            raise ConfigError(
                f"label {int(wrong[0])} is out of range: this model has classes 0 to {self.num_classes - 1} "
                f"({self.num_classes} means any class)"
            )
        return labels


def batch_time(t: Tensor | float, x: Tensor, *, keep_device: bool = False) -> Tensor:
    """Bring a time of any accepted form to shape ``(B,)``, float32."""
    t = torch.as_tensor(t, dtype=torch.float32, device=None if keep_device else x.device)
    return t.reshape(-1).expand(x.shape[0]) if t.numel() == 1 else t.reshape(x.shape[0])


def _overrides(module: FlowSampling, name: str) -> bool:
    method = getattr(module, name, None)
    return method is not None and getattr(method, "__func__", method) is not getattr(FlowSampling, name, None)
