"""Stochastic sampling: the stochastic differential equation whose samples have the distributions of the flow.

For every diffusion ``w(t)`` the equation ``dx = (v + w score / 2) dt + sqrt(w) dB`` has the same distribution at each
time as ``dx = v dt``. With ``w = s (1 - t) sigma^2``, ``sigma`` the noise's standard deviation, the score needs no
division: on the linear path it is ``-x0 / ((1 - t) sigma^2)``, where ``x0 = x_t - t v`` is the noise that the velocity
stands for. So ``dx = (v - s x0 / 2) dt + sigma sqrt(s (1 - t)) dB``: a share of the estimated noise is replaced by
fresh noise.

References:
    Ma et al. 2024 (SiT), arXiv:2401.08740, section 2.2, with its diffusion coefficient ``sigma_t``.
"""

from __future__ import annotations

import math

from torch import Tensor

from jitflow.core.path import expand_time
from jitflow.errors import ConfigError


def sde_drift(v: Tensor, x_t: Tensor, t: Tensor, strength: float) -> Tensor:
    """Compute the drift of the stochastic equation from the velocity: ``v - s (x_t - t v) / 2``.

    Args:
        v: Velocity, shape ``(B, *S)``.
        x_t: State, shape ``(B, *S)``.
        t: Time, shape ``(B,)``.
        strength: ``s``, at least 0; 0 gives the velocity.

    Returns:
        Drift, shape ``(B, *S)``.
    """
    return v - 0.5 * strength * (x_t - expand_time(t, x_t) * v)


def sde_noise_std(t: float, t_next: float, *, strength: float, noise_scale: float = 1.0) -> float:
    """Compute the standard deviation of the noise that a step adds: ``sigma sqrt(s (1 - t) (t_next - t))``.

    Args:
        t: Time at the step's start, in ``[0, 1)``.
        t_next: Time at its end.
        strength: ``s``, at least 0.
        noise_scale: Standard deviation ``sigma`` of the path's noise.
    """
    return noise_scale * math.sqrt(strength * (1 - t) * (t_next - t))


def check_stochastic(*, churn: float, sde: float, solver: str) -> None:
    """Check the settings of stochastic sampling.

    Args:
        churn: Steps back towards the noise before each step.
        sde: Strength of the stochastic equation.
        solver: The solver.

    Raises:
        ConfigError: If one is out of range, both are given, or the solver needs an undisturbed history
            or adds noise itself.
    """
    for name, value in (("churn", churn), ("sde", sde)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} must be a number of at least 0; got {value}")
        if value and solver == "multistep":
            raise ConfigError(
                f"{name} disturbs the history that the multistep solver needs; use euler, heun or midpoint"
            )
        if value and solver == "consistency":
            raise ConfigError(f"{name} adds noise, which the consistency solver does by itself; set it to 0")
    if churn and sde:
        raise ConfigError(f"churn {churn:g} and sde {sde:g} both add noise; give one of them")
