"""True gait of a simulated walk, for comparison with its spectrogram."""

from __future__ import annotations

import math

from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.apps.microdoppler.gait.echo import Walk
from jitflow.apps.microdoppler.gait.joints import cycle_duration_sec


def true_step_frequency_hz(walker: Walker, walk: Walk | None = None) -> float:
    """True step frequency of a walker: two steps in each gait cycle.

    Args:
        walker: The walker.
        walk: The walk; None takes the walker's usual speed.

    Returns:
        The cadence in Hz.
    """
    return 2 / cycle_duration_sec(walker.relative_velocity * (walk.speed_factor if walk else 1.0))


def walking_speed_m_s(walker: Walker, walk: Walk | None = None) -> float:
    """Mean walking speed over the ground: relative velocity times leg length.

    Args:
        walker: The walker.
        walk: The walk; None takes the walker's usual speed.

    Returns:
        The speed in m/s.
    """
    return walker.relative_velocity * (walk.speed_factor if walk else 1.0) * walker.leg_length_m


def torso_velocity_m_s(walker: Walker, walk: Walk | None = None) -> float:
    """Mean radial velocity of the torso in the middle of the recording: speed times the cosine of the aspect.

    Args:
        walker: The walker.
        walk: The walk; None takes the walker's usual speed, straight towards the radar.

    Returns:
        The velocity in m/s, positive towards the radar.
    """
    return walking_speed_m_s(walker, walk) * math.cos(math.radians(walk.aspect_deg if walk else 0.0))
