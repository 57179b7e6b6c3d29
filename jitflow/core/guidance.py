"""Classifier-free guidance inside an interval of times, both passes in one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jitflow.core.guidance_rules import Rule, cfg
from jitflow.errors import ConfigError

LabelledVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """Validate a guidance interval and return it as floats; raise ConfigError unless ``0 <= low <= high <= 1``."""
    try:
        low, high = (float(end) for end in interval)
    except (TypeError, ValueError):
        raise ConfigError(f"the guidance interval needs two numbers (low, high); got {interval!r}") from None
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"the guidance interval must satisfy 0 <= low <= high <= 1; got ({low}, {high})")
    return low, high


def guidance_weight(t: Tensor, scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Guidance scale at each time: ``scale`` inside the interval, 1 outside.

    Inside means ``t < high and (low == 0 or t > low)``, compared in float32 as the JiT release does: on
    grids of 10, 20 or 40 steps a point falls on 0.1, and a comparison with the Python float (which is
    larger than the float32) decides differently.

    Args:
        t: Time, shape ``(B,)``.
        scale: Guidance scale; 1 is the conditional prediction.
        interval: ``(low, high)`` in time; 0 is noise, 1 is data.

    Returns:
        Weights, shape ``(B,)``, float32, on the device of ``t``.

    References:
        Ho & Salimans 2022, arXiv:2207.12598; Kynkäänniemi et al. 2024, arXiv:2404.07724.
    """
    low, high = torch.tensor(interval, dtype=torch.float32).tolist()
    t = t.float()
    inside = t < high
    if low != 0:
        inside = inside & (t > low)
    return torch.where(inside, float(scale), 1.0)


def guidance_acts(t: Tensor, scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> bool:
    """Whether guidance changes a velocity at any of these times; where it does not, a second pass only rounds.

    Times on an accelerator count as times at which it acts: reading them would stall the queue.

    Args:
        t: Time, shape ``(B,)``.
        scale: Guidance scale.
        interval: ``(low, high)`` in time, see :func:`guidance_weight`.
    """
    if scale == 1:
        return False
    return t.device.type != "cpu" or bool((guidance_weight(t, scale, interval) != 1).any())


def guided_velocity(
    velocity: LabelledVelocity,
    x: Tensor,
    t: Tensor,
    label: Tensor,
    *,
    null_label: int | Tensor,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
    rule: Rule = cfg,
    weak: LabelledVelocity | None = None,
    acts: bool | None = None,
) -> Tensor:
    """Guided velocity ``v_uncond + w (v_cond - v_uncond)``, skipping the unconditional pass where ``w`` is 1.

    Conditional and unconditional passes share one batch of ``2B``.

    Args:
        velocity: Field ``(x, t, label) -> v`` with shapes ``(B, *S)``, ``(B,)``, ``(B,)`` -> ``(B, *S)``.
        x: State, shape ``(B, *S)``.
        t: Time, shape ``(B,)``.
        label: Labels, shape ``(B,)``, int64, or with conditions ``(B, 1 + K)``, float32.
        null_label: The label that stands for "no class"; or the labels of the unconditional pass, shape of ``label``.
        scale: Guidance scale; 1 is the conditional prediction.
        interval: ``(low, high)`` in time, see :func:`guidance_weight`.
        channels: Guide only this many leading channels (dimension 1) and leave the others conditional; None
            guides all. The LightningDiT release guides 3 of its 32, which is why its scales are large.
        rule: How both velocities are combined, see :mod:`jitflow.core.guidance_rules`.
        weak: Autoguidance: velocity field of a weaker model, which with the same label takes the place of the
            unconditional one. None for guidance by the class.
        acts: What :func:`guidance_acts` says of these times, if that is known.

    Returns:
        Velocity, shape ``(B, *S)``.

    Raises:
        ConfigError: If ``channels`` is below 1.

    References:
        Ho & Salimans 2022, arXiv:2207.12598; Karras et al. 2024, arXiv:2406.02507 (autoguidance).
    """
    if channels is not None and channels < 1:
        raise ConfigError(f"the number of guided channels must be at least 1, or None for all; got {channels}")
    if not (guidance_acts(t, scale, interval) if acts is None else acts):
        return velocity(x, t, label)
    weight = guidance_weight(t, scale, interval)
    if weak is None:
        null = null_label if isinstance(null_label, Tensor) else torch.full_like(label, null_label)
        both = velocity(torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, null]))
        v_cond, v_uncond = both.chunk(2)
    else:
        v_cond, v_uncond = velocity(x, t, label), weak(x, t, label)
    guided = rule(v_cond, v_uncond, weight, x, t)
    if channels is None:
        return guided
    return torch.cat([guided[:, :channels], v_cond[:, channels:]], dim=1)
