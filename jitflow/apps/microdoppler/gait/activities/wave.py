"""Waving: a person stands and waves the right forearm to and fro."""

from __future__ import annotations

import numpy as np

from jitflow.apps.microdoppler.gait.activities.motion import Array, Motion, Pace, brisk
from jitflow.apps.microdoppler.gait.activities.stand import quiet_sway, standing_points
from jitflow.apps.microdoppler.gait.body import Walker

RATE_HZ = 1.8
"""Waves per second of a person of average tempo."""
RAISED_DEG, ELBOW_DEG = 65.0, 80.0
"""Mean flexion of shoulder and elbow: the upper arm ahead of the body, the forearm above it."""
SHOULDER_SWING_DEG, ELBOW_SWING_DEG = 8.0, 38.0
"""Amplitudes of the wave at shoulder and elbow, in phase."""


def wave(walker: Walker, pace: Pace) -> Motion:
    """Simulate a walker who waves an arm fore and aft; across the line of sight a radar would hardly see it.

    The forearm swings as a sine, so the hand's velocity is nearly one: its amplitude is ``2 pi f`` times that of its
    arc, 2 to 3 m/s. The rest of the body sways by millimetres and stays at zero Doppler.

    Args:
        walker: The person; ``elbow_gain`` scales the amplitude, the relative velocity the rate (by its root).
        pace: Tempo, phase and start.

    Returns:
        The motion; its repetitions are waves, to and fro.

    References:
        V. C. Chen, "The Micro-Doppler Effect in Radar" (a pendulum's micro-Doppler is a sine). Rate and angles are this
        simulator's choice for an unhurried greeting.
    """
    rate_hz = RATE_HZ * brisk(walker) * pace.speed_factor

    def points(time_sec: Array) -> Array:
        swing = np.sin(2 * np.pi * (pace.initial_phase + rate_hz * (pace.start_sec + time_sec))) * walker.elbow_gain
        sway = quiet_sway(pace.start_sec + time_sec, pace.initial_phase)
        rest = np.full_like(swing, np.radians(3.0))
        raised = np.radians(RAISED_DEG + SHOULDER_SWING_DEG * swing)
        bent = np.radians(ELBOW_DEG + ELBOW_SWING_DEG * swing)
        return standing_points(
            walker,
            time_sec,
            hip=-sway,
            shank=-sway,
            trunk_pitch=-np.radians(walker.trunk_lean_deg) - sway,
            shoulder=np.stack([rest, raised]),
            forearm=np.stack([rest + np.radians(10.0), raised + bent]),
        )

    return Motion(points, repetition_hz=rate_hz)
