"""Motion of a body in front of the radar: positions of its points over time, and its mean speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.gait.body import Walker

Array = np.ndarray
GRAVITY_M_S2 = 9.81


@dataclass(frozen=True)
class Pace:
    """Speed and gait phase of a motion in one recording.

    Attributes:
        speed_factor: Speed over the walker's usual one.
        initial_phase: Phase at the start of the motion, in its cycles.
        start_sec: Duration of the motion before the recording begins.
    """

    speed_factor: float = 1.0
    initial_phase: float = 0.0
    start_sec: float = 0.0


@dataclass(frozen=True)
class Motion:
    """Motion of a simulated walker.

    Attributes:
        points: Computes the positions of the body's points in metres, shape ``(17, 3, T)``, from times in seconds since
            the recording began, shape ``(T,)``; of any part of the recording.
        speed_m_s: Mean speed forward; 0 on the spot.
        repetition_hz: Steps, squats or waves per second; None for a motion that happens once.
    """

    points: Callable[[Array], Array]
    speed_m_s: float = 0.0
    repetition_hz: float | None = None


def minimum_jerk(progress: Array) -> Array:
    """Smooth transition from 0 to 1 of a joint's angle: ``10 s^3 - 15 s^4 + 6 s^5``; its top speed is 1.875.

    Args:
        progress: Share of the movement's duration, any shape; clipped to [0, 1].

    References:
        T. Flash & N. Hogan, "The coordination of arm movements", J. Neurosci. 5 (1985) 1688-1703.
    """
    s = np.clip(progress, 0.0, 1.0)
    return s**3 * (10 + s * (6 * s - 15))


def brisk(walker: Walker) -> float:
    """Tempo of a person's movements on the spot over the average: as that of the steps, the root of the velocity."""
    return float(np.sqrt(walker.relative_velocity / 1.5))
