"""Falling: a person who stands loses the balance once and falls forward to the ground."""

from __future__ import annotations

import math

import numpy as np

from jitflow.apps.microdoppler.gait.activities.motion import GRAVITY_M_S2, Array, Motion, Pace, minimum_jerk
from jitflow.apps.microdoppler.gait.activities.stand import quiet_sway, standing_points
from jitflow.apps.microdoppler.gait.body import Walker

PUSH_SEC, PUSH_RAD_S = 0.3, 0.45
"""The loss of balance: a constant acceleration to this rate of the tilt."""
LYING_DEG = 85.0
"""Angle to the vertical of the segments on the ground."""
DELAY_SEC = 0.1
"""Delay of the thighs behind the shanks, and of the trunk behind the thighs: the knees give way first."""
_ARM_DEG, _ARM_SEC = 160.0, 1.0
LATEST_START_SEC = 0.9
"""A fall begins within this time of the recording."""
_STEPS = 20_000


def fall(walker: Walker, pace: Pace) -> Motion:
    """Simulate a walker who falls forward like a rod, the shanks first, then the thighs, then the trunk.

    Each segment tilts as a uniform rod of the body's height, ``phi'' = 3 g / (2 H) sin phi``, after a push of 0.3 s.
    From the loss of balance to the pelvis on the ground takes 1.3 s; the pelvis lands with 1.7 m/s and the head with
    2.9 m/s. Measured are 1.27 +- 0.65 s, 2.1 +- 0.6 m/s and 2.9 +- 0.9 m/s, less than of a rod that falls as one. The
    arms reach ahead; the feet stay, flat.

    Args:
        walker: The person.
        pace: Strength of the push; the phase's fraction is when in the first 0.9 s the recording has it. A fall happens
            once, so ``start_sec`` has no meaning.

    Returns:
        The motion, without repetitions.

    References:
        W. J. Choi, J. M. Wakeling & S. N. Robinovitch, "Kinematic analysis of video-captured falls experienced by older
        adults in long-term care", J. Biomech. 48 (2015) 911-920 (durations and velocities above).
    """
    time_of, angle = tilt_table(walker.height_m, PUSH_RAD_S * pace.speed_factor)
    begins_sec = LATEST_START_SEC * (pace.initial_phase % 1.0)

    def points(time_sec: Array) -> Array:
        since = np.asarray(time_sec, dtype=float) - begins_sec
        shank, thigh, trunk = (np.interp(since - k * DELAY_SEC, time_of, angle) for k in range(3))
        sway = quiet_sway(time_sec, pace.initial_phase) * np.clip(1 - since / PUSH_SEC, 0, 1)
        # The forward lean of a habit is gone once the trunk lies.
        lean = np.radians(walker.trunk_lean_deg) * np.clip(1 - trunk / angle[-1], 0, 1)
        arm = np.radians(_ARM_DEG) * minimum_jerk((since - PUSH_SEC) / _ARM_SEC)
        return standing_points(
            walker,
            time_sec,
            shank=-shank - sway,
            hip=-thigh - sway,
            trunk_pitch=-trunk - sway - lean,
            shoulder=np.asarray(arm),
            forearm=arm + np.radians(15.0 * walker.elbow_gain),
        )

    return Motion(points)


def tilt_table(height_m: float, push_rad_s: float) -> tuple[Array, Array]:
    """Tabulate the tilt of a falling rod over time, from upright to the ground.

    After the push the energy gives the rate, ``phi'^2 = push^2 + 3 g / H (cos phi_0 - cos phi)``, and its inverse,
    integrated over the angle, the time.

    Args:
        height_m: Length of the rod H.
        push_rad_s: Rate of the tilt after the push.

    Returns:
        Times in seconds since the push began, ascending, and angles in radians, both ``(N,)``.
    """
    push = np.linspace(0, PUSH_SEC, 400, endpoint=False)
    first = push_rad_s * PUSH_SEC / 2
    angle = np.linspace(first, math.radians(LYING_DEG), _STEPS)
    rate = np.sqrt(push_rad_s**2 + 3 * GRAVITY_M_S2 / height_m * (np.cos(first) - np.cos(angle)))
    steps = np.diff(angle) * (0.5 / rate[1:] + 0.5 / rate[:-1])
    time = PUSH_SEC + np.concatenate([[0.0], np.cumsum(steps)])
    return np.concatenate([push, time]), np.concatenate([push_rad_s * push**2 / (2 * PUSH_SEC), angle])
