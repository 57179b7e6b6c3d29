"""Walking: positions of the body's points by the global model of Boulic et al."""

from __future__ import annotations

import functools

import numpy as np

from jitflow.apps.microdoppler.gait.activities.motion import Array, Motion, Pace
from jitflow.apps.microdoppler.gait.body import Pose, Walker, pose_points
from jitflow.apps.microdoppler.gait.joints import cycle_duration_sec, joint_angles, trunk_translation


def walk(walker: Walker, pace: Pace) -> Motion:
    """Simulate a walker who goes straight ahead at ``pace.speed_factor`` times the walker's usual relative velocity.

    Args:
        walker: The walker.
        pace: Speed, phase and start.

    Returns:
        The motion; its repetitions are steps.

    Raises:
        ConfigError: If the relative velocity is out of range.
    """
    rv = walker.relative_velocity * pace.speed_factor
    cycle_sec = cycle_duration_sec(rv)
    phase = pace.initial_phase + pace.start_sec / cycle_sec
    points = functools.partial(body_points, walker, speed_factor=pace.speed_factor, initial_phase=phase)
    return Motion(points, speed_m_s=rv * walker.leg_length_m, repetition_hz=2 / cycle_sec)


def body_points(walker: Walker, time_sec: Array, *, speed_factor: float = 1.0, initial_phase: float = 0.0) -> Array:
    """Compute the positions of the body's points during a straight walk.

    Lengths scale consistently: the cycle lasts ``1.346 / sqrt(rv)`` s, the body advances by ``rv`` leg lengths
    a second, and its sway is in leg lengths too, so the standing foot hardly slips.

    Args:
        walker: The walker.
        time_sec: Times, shape ``(T,)``.
        speed_factor: Relative velocity of this walk over the walker's usual one.
        initial_phase: Phase of the gait at time 0, in cycles.

    Returns:
        Positions in metres, shape ``(17, 3, T)``, in the order of ``POINTS``.

    Raises:
        ConfigError: If the relative velocity is out of range.
    """
    time_sec = np.asarray(time_sec, dtype=float)
    rv = walker.relative_velocity * speed_factor
    phase = initial_phase + time_sec / cycle_duration_sec(rv)
    trunk = joint_angles(phase, rv)
    left_and_right = np.stack([phase + 0.5 - walker.phase_asymmetry_cycles, phase])
    limbs = joint_angles(left_and_right, rv)
    strength = np.array([[1 + walker.asymmetry], [1 - walker.asymmetry]])

    hip = np.radians(limbs.hip) * walker.hip_gain * strength
    shank = hip - np.radians(limbs.knee) * walker.knee_gain * strength
    # Habits change the swing about its mean, not the mean: 3 - ash / 2.
    rest = 3 - 9.88 * rv / 2
    shoulder = np.radians(rest + (limbs.shoulder - rest) * walker.arm_swing_gain * strength)
    pose = Pose(
        hip,
        shank,
        shank + np.radians(limbs.ankle),
        shoulder,
        forearm=shoulder + np.radians(limbs.elbow) * walker.elbow_gain * strength,
        trunk_pitch=np.radians(trunk.trunk_flexion - walker.trunk_lean_deg),
        trunk_yaw=np.radians(trunk.thorax_torsion),
        pelvis_roll=-np.radians(trunk.pelvis_list),
        pelvis_yaw=np.radians(trunk.pelvis_torsion),
        sway_m=trunk_translation(phase, rv) * walker.leg_length_m,
        advance_m=rv * walker.leg_length_m * time_sec,
    )
    return pose_points(walker, pose)
