"""Poses on the spot: feet fixed to the ground, the rest of the body placed above them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jitflow.apps.microdoppler.gait.activities.motion import Array
from jitflow.apps.microdoppler.gait.body import POINTS, Pose, Walker, pose_points

_ANKLES = [POINTS.index("left_ankle"), POINTS.index("right_ankle")]
_TURN = 2 * np.pi


def standing_points(walker: Walker, time_sec: Array, **angles: Array) -> Array:
    """Compute the positions of the body's points while the feet stay where they are, flat on the ground.

    Args:
        walker: The body.
        time_sec: Times, shape ``(T,)``.
        angles: Any angles of a :class:`Pose` in radians, shape ``(T,)`` or ``(2, T)``; the others are 0.

    Returns:
        Positions in metres, shape ``(17, 3, T)``; the ankles are below the origin, a leg's length.
    """
    time_sec = np.asarray(time_sec, dtype=float)
    limb, trunk, place = np.zeros((2, len(time_sec))), np.zeros(len(time_sec)), np.zeros((3, len(time_sec)))
    rest = Pose(limb, limb, limb, limb, limb, trunk, trunk, trunk, trunk, place, trunk)
    both = {
        name: np.broadcast_to(value, limb.shape if getattr(rest, name).ndim == 2 else trunk.shape)
        for name, value in angles.items()
    }
    points = pose_points(walker, replace(rest, **both))
    ankle = points[_ANKLES].mean(axis=0)
    return points - ankle + np.array([[0.0], [0.0], [-walker.leg_length_m]])


def quiet_sway(time_sec: Array, phase: float) -> Array:
    """Sway of a walker who stands still, in radians, positive forward: two slow swings of some tenths of a degree.

    Args:
        time_sec: Times, shape ``(T,)``.
        phase: Phase of the swing, in cycles.

    References:
        D. A. Winter, "Human balance and posture control during standing and walking", Gait & Posture 3 (1995) 193-214:
        an inverted pendulum about the ankles, whose motion lies below 1 Hz. The size is this simulator's choice.
    """
    return np.radians(0.3) * (
        np.sin(_TURN * (0.25 * time_sec + phase)) + 0.5 * np.sin(_TURN * (0.6 * time_sec + 2.3 * phase))
    )
