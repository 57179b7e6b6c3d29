"""Power-function averages of weights (EMA), and their post-hoc reconstruction from stored snapshots.

The average of exponent ``gamma`` at time ``t`` weighs the past by the profile

    p(s; t, gamma) = (gamma + 1) s^gamma / t^(gamma + 1)    for 0 <= s <= t,

so its length is a fixed fraction of the training so far. With the decay ``(1 - 1/t)^(gamma + 1)`` at step ``t``, step
``s`` gets the weight ``(s^(gamma+1) - (s-1)^(gamma+1)) / t^(gamma+1)``: exactly the profile's mass on ``(s-1, s]``.
An average is therefore linear in its profile: if a weighted sum of stored profiles approximates another profile, the
same weighted sum of the stored averages approximates the other average. Integrating over ``(s-1, s]`` can only shrink
a difference, so the error of the continuous profiles bounds that of the discrete steps.

References:
    Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jitflow.core.ema import update_ema_
from jitflow.errors import ConfigError

# Width of the flat profile (gamma = 0): the standard deviation of a uniform number in [0, 1].
MAX_WIDTH = 12**-0.5
_MIN_WIDTH = 1e-9


def power_ema_decay(step: int, gamma: float) -> float:
    """Return the decay of a power EMA: ``(1 - 1/step)^(gamma + 1)``.

    Args:
        step: Optimiser steps done, including this one; at least 1, where the decay is 0.
        gamma: Exponent of the profile, at least 0.

    Raises:
        ConfigError: If ``step`` is below 1 or ``gamma`` below 0.
    """
    if step < 1:
        raise ConfigError(f"a power EMA counts steps from 1; got {step}")
    _check_gamma(gamma)
    return (1 - 1 / step) ** (gamma + 1)


def update_power_ema_(averages: Mapping[str, Tensor], params: Mapping[str, Tensor], step: int, gamma: float) -> None:
    """Update power-function averages of parameters in place; the first step copies the parameters.

    Args:
        averages: Averages by parameter name, float32.
        params: Parameters by name; exactly the same names.
        step: Optimiser steps done, including the one that led to ``params``.
        gamma: Exponent of the profile, at least 0.

    Raises:
        ConfigError: If the names differ, ``step`` is below 1 or ``gamma`` below 0.
    """
    update_ema_(averages, params, power_ema_decay(step, gamma))


def width_from_exponent(gamma: float) -> float:
    """Return the relative width (standard deviation over length) of a profile: ``sqrt((g+1) / ((g+2)^2 (g+3)))``.

    Args:
        gamma: Exponent, at least 0.

    Returns:
        The relative width, in ``(0, 0.2887]``.

    Raises:
        ConfigError: If ``gamma`` is below 0.
    """
    _check_gamma(gamma)
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def exponent_from_width(width: float) -> float:
    """Return the exponent of a profile from its relative width (standard deviation over length).

    Args:
        width: Relative standard deviation, in ``(0, 0.2887]``; 0.10 averages over about a tenth of the training.

    Returns:
        ``gamma``, at least 0.

    Raises:
        ConfigError: If the width is out of range.
    """
    if not _MIN_WIDTH <= width <= MAX_WIDTH:
        raise ConfigError(f"the relative width of an EMA must lie above 0 and below {MAX_WIDTH:.4f}; got {width}")
    # Newton on (width (g + 2))^2 (g + 3) - (g + 1). For g >= 0 it is convex, and 1 / width lies right of its
    # largest root, so the iteration descends to that root and can pass it only by rounding.
    gamma = 1 / width
    while True:
        value = (width * (gamma + 2)) ** 2 * (gamma + 3) - (gamma + 1)
        slope = width**2 * (gamma + 2) * (3 * gamma + 8) - 1
        lower = gamma - value / slope
        if not lower < gamma:
            return max(gamma, 0.0)
        gamma = lower


def profile_inner_product(
    step_a: Tensor | float, gamma_a: Tensor | float, step_b: Tensor | float, gamma_b: Tensor | float
) -> Tensor:
    """Compute the inner product of two EMA profiles in closed form.

    With ``m = min(t_a, t_b)``: ``(g_a+1) (g_b+1) / (g_a+g_b+1) * (m/t_a)^(g_a+1) (m/t_b)^(g_b+1) / m``.

    Args:
        step_a: Last steps of the first profiles, positive, any shape; shapes broadcast.
        gamma_a: Exponents of the first profiles, at least 0.
        step_b: Last steps of the second profiles.
        gamma_b: Exponents of the second profiles.

    Returns:
        The inner products per step, float64, the broadcast shape.
    """
    t_a, g_a, t_b, g_b = (torch.as_tensor(v, dtype=torch.float64) for v in (step_a, gamma_a, step_b, gamma_b))
    m = torch.minimum(t_a, t_b)
    # Powers of ratios, not ratios of powers: t^(gamma + 1) alone would overflow a double.
    reach = (m / t_a) ** (g_a + 1) * (m / t_b) ** (g_b + 1) / m
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * reach


def reconstruction_coefficients(
    steps: Sequence[int], gammas: Sequence[float], target_step: int, target_gamma: float
) -> Tensor:
    """Compute coefficients of stored averages whose weighted sum best approximates another average.

    Least squares of the profiles: minimise ``|sum_i c_i p_i - p|^2`` subject to ``sum_i c_i = 1``. Every profile has
    mass 1, so the unconstrained minimum sums to nearly 1; the constraint makes it exact, because the sum scales the
    part of each weight that training never changes, which is most of it.

    A target that is itself stored is returned exactly.

    Args:
        steps: Steps of the stored averages, at least 1, in any order.
        gammas: Their exponents, as many.
        target_step: Step of the wanted average.
        target_gamma: Its exponent.

    Returns:
        Coefficients, shape ``(N,)``, float64, summing to 1.

    Raises:
        ConfigError: If there are none, the lengths differ, or a value is out of range.
    """
    t, g = _check_profiles(steps, gammas, target_step, target_gamma)
    same = (t == target_step) & (g == target_gamma)
    if same.any():
        coefficients = torch.zeros_like(t)
        coefficients[int(same.nonzero()[0])] = 1.0
        return coefficients
    # Normalised: norms fall with the step, so rounding errors of early profiles would hide late ones.
    scale = profile_inner_product(t, g, t, g).rsqrt()
    gram = profile_inner_product(t[:, None], g[:, None], t, g) * scale[:, None] * scale
    aim = profile_inner_product(t, g, target_step, target_gamma) * scale
    # Neighbouring snapshots are nearly equal. Directions whose eigenvalue is within the rounding error of the matrix
    # carry no information but would get huge coefficients of alternating sign, which would amplify the float32
    # rounding # of the snapshots. A pseudo-inverse drops these directions.
    values, vectors = torch.linalg.eigh(gram)
    kept = values > len(t) * torch.finfo(torch.float64).eps * values[-1]
    values, vectors = values[kept], vectors[:, kept]

    def solve(right: Tensor) -> Tensor:
        return scale * (vectors @ ((vectors.mT @ right) / values))

    free, shift = solve(aim), solve(scale)
    # Lagrange multiplier of the sum: shift along the direction that changes it at the least cost.
    return free + shift * ((1 - free.sum()) / shift.sum())


def predicted_error(
    steps: Sequence[int], gammas: Sequence[float], target_step: int, target_gamma: float, coefficients: Tensor
) -> float:
    """Return the relative error ``|sum_i c_i p_i - p| / |p|`` of a reconstructed EMA profile.

    No weights are needed. The relative error of the weights is smaller, since the difference of profiles has no mass
    and weights move slowly: about a tenth for a random walk, and below 1e-3 where this is below 0.02. A large value
    means that snapshots are missing, or that the target step lies between two of them, where the profile's edge cannot
    be reproduced.

    Args:
        steps: Steps of the stored averages.
        gammas: Their exponents.
        target_step: Step of the wanted average.
        target_gamma: Its exponent.
        coefficients: From :func:`reconstruction_coefficients`, shape ``(N,)``.

    Returns:
        The relative root-mean-square error, 0 for a perfect fit; below about 1e-7 it is rounding.
    """
    t, g = _check_profiles(steps, gammas, target_step, target_gamma)
    t = torch.cat([t, torch.tensor([target_step], dtype=torch.float64)])
    g = torch.cat([g, torch.tensor([target_gamma], dtype=torch.float64)])
    c = torch.cat([coefficients.double(), torch.tensor([-1.0], dtype=torch.float64)])
    gram = profile_inner_product(t[:, None], g[:, None], t, g)
    return math.sqrt(max(0.0, float(c @ gram @ c)) / float(gram[-1, -1]))


def _check_gamma(gamma: float) -> None:
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise ConfigError(f"the exponent of a power EMA must be at least 0; got {gamma}")


def _check_profiles(
    steps: Sequence[int], gammas: Sequence[float], target_step: int, target_gamma: float
) -> tuple[Tensor, Tensor]:
    if not steps or len(steps) != len(gammas):
        raise ConfigError(f"a reconstruction needs a step and an exponent each; got {len(steps)} and {len(gammas)}")
    for step in (*steps, target_step):
        if not step >= 1:
            raise ConfigError(f"a power EMA counts steps from 1; got {step}")
    for gamma in (*gammas, target_gamma):
        _check_gamma(gamma)
    return torch.tensor(steps, dtype=torch.float64), torch.tensor(gammas, dtype=torch.float64)
