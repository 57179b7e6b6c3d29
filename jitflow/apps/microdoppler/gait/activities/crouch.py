"""Crouching: a squat to the ground and up again, over and over, with the feet on the spot."""

from __future__ import annotations

import numpy as np

from jitflow.apps.microdoppler.gait.activities.motion import Array, Motion, Pace, brisk, minimum_jerk
from jitflow.apps.microdoppler.gait.activities.stand import quiet_sway, standing_points
from jitflow.apps.microdoppler.gait.body import Walker

CYCLE_SEC = 3.2
"""Down, low, up and standing, for a person of average tempo."""
_DOWN, _LOW, _UP = 0.34, 0.12, 0.30  # shares of the cycle; the rest stands
SHANK_DEG, THIGH_DEG, TRUNK_DEG, ARM_DEG = 30.0, 80.0, 42.0, 70.0
"""Angles to the vertical at the lowest point: shank and trunk lean forward, knees and arms are ahead of their roots."""


def crouch(walker: Walker, pace: Pace) -> Motion:
    """Simulate a walker who crouches and rises: the knees flex by 110 degrees, the trunk leans forward.

    The angles are those of a squat with horizontal thighs, in which the centre of mass must stay above the foot; the
    transitions are of minimum jerk, about one second each, as unhurried squats are.

    Args:
        walker: The person; ``knee_gain`` scales the depth, the relative velocity the tempo (by its root).
        pace: Tempo, phase and start.

    Returns:
        The motion; its repetitions are squats.

    References:
        F. Dirhold & T. Ohtsuki, "A new human model for Doppler radar simulation", PIMRC 2012 (squats, with the limbs'
        equations and measured spectrograms); D. A. Winter, "Biomechanics and motor control of human movement" (segment
        masses, by which the tests check the balance). Angles and times are this simulator's choice within these.
    """
    cycle_sec = CYCLE_SEC / (brisk(walker) * pace.speed_factor)
    depth = float(np.clip(walker.knee_gain, 0.6, 1.15))

    def points(time_sec: Array) -> Array:
        phase = (pace.initial_phase + (pace.start_sec + time_sec) / cycle_sec) % 1.0
        low = depth * (minimum_jerk(phase / _DOWN) - minimum_jerk((phase - _DOWN - _LOW) / _UP))
        sway = quiet_sway(pace.start_sec + time_sec, pace.initial_phase)
        trunk = np.radians(TRUNK_DEG * low + walker.trunk_lean_deg) + sway
        shoulder = np.radians(ARM_DEG * low) + trunk
        return standing_points(
            walker,
            time_sec,
            hip=np.radians(THIGH_DEG * low) - sway,
            shank=-np.radians(SHANK_DEG * low) - sway,
            trunk_pitch=-trunk,
            shoulder=np.asarray(shoulder),
            forearm=shoulder + np.radians(15.0 * walker.elbow_gain),
        )

    return Motion(points, repetition_hz=1 / cycle_sec)
