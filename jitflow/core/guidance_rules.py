"""Rules of guidance: how the predictions with and without the class, or of a strong and a weak model, are combined.

A rule gets both velocities, the weight ``w`` of each sample, and the state and time that they belong to. With ``w = 1``
every rule gives the conditional velocity, but for the zero of CFG-Zero* at t = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from jitflow.core.path import expand_time
from jitflow.errors import ConfigError, unknown_name

RuleName = Literal["cfg", "apg", "cfg_zero"]
RULES: tuple[RuleName, ...] = get_args(RuleName)
Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""A rule ``(v_cond, v_uncond, weight, x, t) -> v``; weight and time have shape ``(B,)``, all else ``(B, *S)``."""


def cfg(v_cond: Tensor, v_uncond: Tensor, weight: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Combine velocities by classifier-free guidance: ``v_uncond + w (v_cond - v_uncond)``.

    References:
        Ho & Salimans 2022, arXiv:2207.12598.
    """
    return v_uncond + expand_time(weight, x) * (v_cond - v_uncond)


def cfg_zero(v_cond: Tensor, v_uncond: Tensor, weight: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Combine velocities by CFG-Zero*: ``s v_uncond + w (v_cond - s v_uncond)``, and no velocity at t = 0.

    ``s = <v_cond, v_uncond> / |v_uncond|^2`` is the scale at which the unconditional velocity is nearest to the
    conditional one. At t = 0 the velocity points at the mean of the data, which the paper leaves out.

    References:
        Fan et al. 2025, arXiv:2503.18886.
    """
    product = (v_cond * v_uncond).flatten(1).sum(1)
    scale = expand_time(product / v_uncond.square().flatten(1).sum(1).clamp_min(1e-12), x)
    guided = scale * v_uncond + expand_time(weight, x) * (v_cond - scale * v_uncond)
    is_start = expand_time((t == 0) & (weight.to(t.device) != 1), x)
    return torch.where(is_start, 0.0, guided)


class AdaptiveProjectedGuidance:
    """Adaptive projected guidance (APG), which damps what makes guided images saturated.

    The difference of the data predictions, ``(1 - t) (v_cond - v_uncond)``, is averaged over steps, shortened to a
    largest size, and split into a part along the conditional prediction and one across it; the first is multiplied by
    ``eta``.

    Args:
        eta: Factor of the part along the conditional prediction; 1 and no other change is plain guidance.
        norm: Largest root mean square of the difference over a sample; 0 for no limit.
        momentum: Factor of earlier differences that are added, negative to push away from them; 0 for none. Earlier
            are those of the evaluations before in the same trajectory.

    Raises:
        ConfigError: If a number is out of range.

    References:
        Sadat et al. 2024, arXiv:2410.02416. Its limit is the norm itself; the root mean square does not depend on the
        size of the images.
    """

    def __init__(self, eta: float = 0.0, norm: float = 0.0, momentum: float = 0.0) -> None:
        if not norm >= 0:
            raise ConfigError(f"apg_norm must not be negative; got {norm}")
        if not -1 < momentum < 1:
            raise ConfigError(f"apg_momentum must lie between -1 and 1; got {momentum}")
        self.eta = eta
        self.norm = norm
        self.momentum = momentum
        self._earlier: Tensor | None = None

    def __call__(self, v_cond: Tensor, v_uncond: Tensor, weight: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Combine both velocities; shapes as for :data:`Rule`."""
        left = (1 - expand_time(t, x)).clamp_min(1e-6)
        data = x + left * v_cond
        difference = left * (v_cond - v_uncond)
        if self.momentum:
            earlier = self._earlier
            difference = difference if earlier is None else difference + self.momentum * earlier
            self._earlier = difference
        if self.norm:
            size = difference.flatten(1).square().mean(1).sqrt()
            difference = difference * expand_time((self.norm / size.clamp_min(1e-12)).clamp_max(1.0), x)
        along = (difference * data).flatten(1).sum(1) / data.flatten(1).square().sum(1).clamp_min(1e-12)
        parallel = expand_time(along, x) * data
        change = difference - parallel + self.eta * parallel
        return v_cond + (expand_time(weight, x) - 1) * change / left


def check_rule(name: str) -> None:
    """Raise ConfigError with the nearest names if a rule of guidance is unknown."""
    if name not in RULES:
        raise unknown_name("guidance_rule", name, RULES)


def build_rule(name: str, **apg: float) -> Rule:
    """Build a rule for one trajectory.

    Args:
        name: One of ``RULES``.
        apg: Arguments of :class:`AdaptiveProjectedGuidance`, read for that rule only.

    Raises:
        ConfigError: If the name is unknown or a number out of range.
    """
    check_rule(name)
    return AdaptiveProjectedGuidance(**apg) if name == "apg" else {"cfg": cfg, "cfg_zero": cfg_zero}[name]
