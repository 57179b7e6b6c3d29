"""Running: joint angles over a stride with two phases of flight, at a steady speed."""

from __future__ import annotations

import math

import numpy as np

from jitflow.apps.microdoppler.gait.activities.motion import Array, Motion, Pace
from jitflow.apps.microdoppler.gait.body import Pose, Walker, pose_points
from jitflow.apps.microdoppler.gait.joints import periodic_pchip

_TURN = 2 * np.pi
SPEED_OVER_WALKING = 2.2
"""Running speed over the usual walking speed: 2.1 to 3.6 m/s for most people."""
STANCE = 0.36
"""Share of the stride during which a foot stands; below one half, so both feet fly twice a stride."""
# Flexions in degrees over the stride of a leg, 0 at its contact; thigh against the vertical.
_HIP = [(0.0, 19.0), (0.135, 10.5), (STANCE, -24.5), (0.46, -26.0), (0.685, 23.0), (0.88, 38.5)]
_KNEE = [(0.0, 19.0), (0.155, 38.0), (0.335, 22.0), (0.67, 94.5), (0.985, 22.0)]
_ANKLE = [(0.0, 7.0), (0.20, 27.0), (STANCE, -3.0), (0.44, -18.5), (0.70, 3.5), (0.95, 4.5)]
_REFERENCE_RV = 3.3  # of these angles: 2.8 m/s for legs of 0.86 m
_BOUNCE_M, _SURGE_M, _LOWEST = 0.022, 0.0065, 0.15
_LEAN_DEG, _ELBOW_DEG, _ARM_DEG, _ARM_REST_DEG = 7.0, 95.0, 32.0, -12.0
_THORAX_DEG, _PELVIS_DEG = 10.0, 7.0


def step_frequency_hz(walker: Walker, speed_m_s: float) -> float:
    """Step frequency of a runner: 2.8 steps per second at 3 m/s, and hardly more at a higher speed.

    Faster runners lengthen their strides.

    Args:
        walker: The runner; legs of other lengths than 0.86 m are as quick as pendulums of their length.
        speed_m_s: Running speed.

    References:
        P. R. Cavanagh & R. Kram, "Stride length in distance running", Med. Sci. Sports Exerc. 21 (1989) 467-479 (4 %
        more from 3.15 to 4.12 m/s); D. E. Lieberman et al., J. Exp. Biol. 218 (2015) 3406-3414 (85 strides a minute at
        3 m/s).
    """
    return (2.4 + 0.13 * speed_m_s) * math.sqrt(0.86 / walker.leg_length_m)


def run(walker: Walker, pace: Pace) -> Motion:
    """Simulate a walker who runs straight ahead, at ``SPEED_OVER_WALKING`` times the usual walking speed.

    A foot stands for 36 % of the stride; hips, knees and ankles follow the curves of running textbooks (knee flexion 40
    degrees in stance and 95 in swing, thighs from 38 to -26, plantar flexion of 18 at push-off), and the hips' range
    grows with the stride. The trunk leans forward, bounces by 4 cm and turns against the pelvis, and the elbows are
    bent.

    Args:
        walker: The runner; the habits are those of walking.
        pace: Speed, phase and start.

    Returns:
        The motion; its repetitions are steps.

    References:
        T. F. Novacheck, "The biomechanics of running", Gait & Posture 7 (1998) 77-95 (toe-off before half of the
        cycle, curves of hip, knee and ankle). The control points are this simulator's, chosen so that the standing foot
        slips little.
    """
    speed = SPEED_OVER_WALKING * walker.relative_velocity * pace.speed_factor * walker.leg_length_m
    cycle_sec = 2 / step_frequency_hz(walker, speed)
    stride = speed * cycle_sec / walker.leg_length_m
    reach = stride / (_REFERENCE_RV * 2 / step_frequency_hz(Walker(), _REFERENCE_RV * 0.86))
    begin = pace.initial_phase + pace.start_sec / cycle_sec

    def points(time_sec: Array) -> Array:
        time_sec = np.asarray(time_sec, dtype=float)
        phase = begin + time_sec / cycle_sec
        return pose_points(walker, _pose(walker, phase, reach, speed * time_sec))

    return Motion(points, speed_m_s=speed, repetition_hz=2 / cycle_sec)


def _pose(walker: Walker, phase: Array, reach: float, advanced: Array) -> Pose:
    """Return the body's angles; the right leg's phase is ``phase``, the left's half a stride later."""
    sides = np.stack([phase + 0.5 - walker.phase_asymmetry_cycles, phase]) % 1.0
    strength = np.array([[1 + walker.asymmetry], [1 - walker.asymmetry]])
    hip = np.radians(periodic_pchip(_HIP, sides)) * reach * walker.hip_gain * strength
    shank = hip - np.radians(periodic_pchip(_KNEE, sides)) * walker.knee_gain * strength
    # An arm is furthest back when the leg of its side is furthest ahead.
    swing = _ARM_DEG * walker.arm_swing_gain * strength * np.cos(_TURN * (sides - 0.9))
    shoulder = np.radians(_ARM_REST_DEG - swing)
    zero = np.zeros_like(phase)
    sway = np.stack(
        [
            -_SURGE_M * np.sin(2 * _TURN * (phase - _LOWEST)),
            zero,
            -_BOUNCE_M * (1 + np.cos(2 * _TURN * (phase - _LOWEST))),
        ]
    )
    return Pose(
        hip,
        shank,
        shank + np.radians(periodic_pchip(_ANKLE, sides)),
        shoulder,
        shoulder + np.radians(_ELBOW_DEG) * walker.elbow_gain,
        trunk_pitch=zero - np.radians(_LEAN_DEG + walker.trunk_lean_deg),
        trunk_yaw=np.radians(_THORAX_DEG * np.cos(_TURN * (phase - 0.9))),
        pelvis_roll=zero,
        pelvis_yaw=-np.radians(_PELVIS_DEG * np.cos(_TURN * (phase - 0.9))),
        sway_m=sway,
        advance_m=advanced,
    )
