"""Consistency functions on the linear path: from any state in one step to the data at the end of its trajectory.

The function is one Euler step to the end, ``f(x, t) = x + (1 - t) v(x, t)``. So it needs nothing that a flow model has
not: one network with one time and any prediction, whose sampling in one Euler step is the function itself. That
``f(x, 1) = x`` holds exactly, also where a conversion to the velocity is clamped near the data.

References:
    Song et al. 2023, arXiv:2303.01469 (consistency models); Geng et al. 2024, arXiv:2406.14548 (easy consistency
    tuning: begin from a trained diffusion model, and shorten the steps as training goes on).
"""

from __future__ import annotations

from torch import Tensor

from jitflow.core.path import expand_time


def end_of_trajectory(v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Follow a velocity to the end of the path in one step: ``x_t + (1 - t) v``.

    Args:
        v: Velocity, shape ``(B, *S)``.
        x_t: State, shape ``(B, *S)``.
        t: Time, shape ``(B,)``, in ``[0, 1]``; 0 is noise, 1 is data.

    Returns:
        The data that the velocity leads to, shape ``(B, *S)``; ``x_t`` itself at ``t = 1``.
    """
    return x_t + (1 - expand_time(t, x_t)) * v


def nearer_to_data(x_t: Tensor, x1: Tensor, t: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Go a share of the remaining way from a path sample to its data, on the straight path of the two.

    Args:
        x_t: Path sample, shape ``(B, *S)``.
        x1: Its data, shape ``(B, *S)``.
        t: Time, shape ``(B,)``, in ``[0, 1]``.
        share: Share of the way, shape ``(B,)``, in ``[0, 1]``; 1 gives the data.

    Returns:
        Path sample of the same noise, shape ``(B, *S)``, and its time ``t + share (1 - t)``, shape ``(B,)``.
    """
    return x_t + expand_time(share, x_t) * (x1 - x_t), t + share * (1 - t)
