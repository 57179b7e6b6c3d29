"""Body of a walker, and the positions of its points from the angles of its joints.

Axes: x forward, y left, z up, metres; the origin is the base of the spine at time 0 without sway. P points, T times;
arrays of positions have shape ``(P, 3, T)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.gait.checks import check_range
from jitflow.apps.microdoppler.gait.joints import MAX_RELATIVE_VELOCITY

Array = np.ndarray

# Lengths of segments in units of the body height.
HEAD, TORSO = 0.130, 0.288
HALF_SHOULDER_WIDTH, HALF_HIP_WIDTH = 0.259 / 2, 0.191 / 2
UPPER_LEG, LOWER_LEG, FOOT = 0.245, 0.246, 0.143
UPPER_ARM, LOWER_ARM = 0.188, 0.152
# Height of the ankle above the ground, which the joint model omits.
ANKLE_HEIGHT = 0.039

POINTS = (
    "base",
    "neck",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_hand",
    "right_hand",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
    "left_toe",
    "right_toe",
)
"""Names of the points, in the order of the first axis."""

PARTS = ("head", "torso", "shoulder", "upper_arm", "lower_arm", "hip", "upper_leg", "lower_leg", "foot")
"""Kinds of scatterers, in the order of :attr:`Walker.part_gain_db`."""


@dataclass(frozen=True)
class Walker:
    """Body and walking habits of a person. The defaults are the average walker of the model.

    Args:
        height_m: Body height, in [0.8, 2.5] m.
        relative_velocity: Usual walking speed over leg length, 1/s, in [0.05, 3]; it determines the cadence,
            ``2 sqrt(rv) / 1.346`` steps per second. Normal walking is 1.1 to 1.9.
        torso_scale: Length of the torso relative to the average for the height; likewise the next six.
        shoulder_scale: Width of the shoulders.
        upper_leg_scale: Length of the thigh.
        lower_leg_scale: Length of the shank.
        foot_scale: Length of the foot.
        upper_arm_scale: Length of the upper arm.
        lower_arm_scale: Length of the forearm.
        hip_gain: Factor of the hip's flexion.
        knee_gain: Factor of the knee's flexion.
        elbow_gain: Factor of the elbow's flexion.
        arm_swing_gain: Factor of the arm swing; 0 for none.
        asymmetry: Relative increase of the left side's limb movements, and decrease of the right side's.
        phase_asymmetry_cycles: Delay of the left side, in gait cycles.
        trunk_lean_deg: Forward lean of the trunk.
        part_gain_db: Cross-section of each of ``PARTS`` relative to the average, dB: clothes, build.

    Raises:
        ConfigError: If a number is out of range.
    """

    height_m: float = 1.75
    relative_velocity: float = 1.5
    torso_scale: float = 1.0
    shoulder_scale: float = 1.0
    upper_leg_scale: float = 1.0
    lower_leg_scale: float = 1.0
    foot_scale: float = 1.0
    upper_arm_scale: float = 1.0
    lower_arm_scale: float = 1.0
    hip_gain: float = 1.0
    knee_gain: float = 1.0
    elbow_gain: float = 1.0
    arm_swing_gain: float = 1.0
    asymmetry: float = 0.0
    phase_asymmetry_cycles: float = 0.0
    trunk_lean_deg: float = 0.0
    part_gain_db: tuple[float, ...] = (0.0,) * len(PARTS)

    def __post_init__(self) -> None:
        check_range("height_m", self.height_m, 0.8, 2.5, unit="m")
        check_range("relative_velocity", self.relative_velocity, 0.05, MAX_RELATIVE_VELOCITY, unit="1/s")
        for name in ("torso", "shoulder", "upper_leg", "lower_leg", "foot", "upper_arm", "lower_arm"):
            check_range(f"{name}_scale", getattr(self, f"{name}_scale"), 0.5, 2.0)
        for name in ("hip_gain", "knee_gain", "elbow_gain", "arm_swing_gain"):
            check_range(name, getattr(self, name), 0.0, 3.0)
        check_range("asymmetry", self.asymmetry, -0.5, 0.5)
        check_range("phase_asymmetry_cycles", self.phase_asymmetry_cycles, -0.25, 0.25, unit="cycles")
        check_range("trunk_lean_deg", self.trunk_lean_deg, -45, 45, unit="degrees")
        check_range("the number of part_gain_db", len(self.part_gain_db), len(PARTS), len(PARTS))
        for gain in self.part_gain_db:
            check_range("part_gain_db", gain, -60, 60, unit="dB")

    @property
    def leg_length_m(self) -> float:
        """Leg length from hip to ankle, the walking model's unit of length."""
        return self.height_m * (UPPER_LEG * self.upper_leg_scale + LOWER_LEG * self.lower_leg_scale)

    @property
    def hip_height_m(self) -> float:
        """Height of the base of the spine above the ground, standing."""
        return self.leg_length_m + ANKLE_HEIGHT * self.height_m

    def length_m(self, part: str) -> float:
        """Length of a segment; half the width for ``"shoulder"`` and ``"hip"``."""
        share = {
            "head": HEAD,
            "torso": TORSO * self.torso_scale,
            "shoulder": HALF_SHOULDER_WIDTH * self.shoulder_scale,
            "hip": HALF_HIP_WIDTH,
            "upper_leg": UPPER_LEG * self.upper_leg_scale,
            "lower_leg": LOWER_LEG * self.lower_leg_scale,
            "foot": FOOT * self.foot_scale,
            "upper_arm": UPPER_ARM * self.upper_arm_scale,
            "lower_arm": LOWER_ARM * self.lower_arm_scale,
        }
        return self.height_m * share[part]


@dataclass(frozen=True)
class Pose:
    """Angles of the body over T times, in radians, and its place. Limbs have a row each for left and right.

    Attributes:
        hip: Thigh against the hanging vertical, positive forward, shape ``(2, T)``.
        shank: Shank against the vertical, positive forward, shape ``(2, T)``.
        foot: Foot against the horizontal, positive toe up, shape ``(2, T)``.
        shoulder: Upper arm against the hanging trunk, positive forward, shape ``(2, T)``.
        forearm: Forearm against the hanging trunk, positive forward, shape ``(2, T)``.
        trunk_pitch: Pitch of the upper body, negative leans forward, shape ``(T,)``.
        trunk_yaw: Yaw of the upper body, shape ``(T,)``.
        pelvis_roll: Roll of the lower body, shape ``(T,)``.
        pelvis_yaw: Yaw of the lower body, shape ``(T,)``.
        sway_m: Base of the spine against its uniform motion: forward, left, up, shape ``(3, T)``.
        advance_m: Uniform motion forward, shape ``(T,)``.
    """

    hip: Array
    shank: Array
    foot: Array
    shoulder: Array
    forearm: Array
    trunk_pitch: Array
    trunk_yaw: Array
    pelvis_roll: Array
    pelvis_yaw: Array
    sway_m: Array
    advance_m: Array


def pose_points(walker: Walker, pose: Pose) -> Array:
    """Compute the positions of the body's points from its angles (forward kinematics).

    Limbs move in planes of constant y; angles add up along the chain, since all rotate about y.

    Args:
        walker: The body.
        pose: Its angles and place.

    Returns:
        Positions in metres, shape ``(17, 3, T)``, in the order of ``POINTS``.
    """
    side = np.array([[1.0], [-1.0]])  # left is positive y
    foot_m = walker.length_m("foot")
    knee_x, knee_z = _limb_end(pose.hip, walker.length_m("upper_leg"))
    shank_x, shank_z = _limb_end(pose.shank, walker.length_m("lower_leg"))
    ankle_x, ankle_z = knee_x + shank_x, knee_z + shank_z
    toe_x, toe_z = ankle_x + foot_m * np.cos(pose.foot), ankle_z + foot_m * np.sin(pose.foot)
    elbow_x, elbow_z = _limb_end(pose.shoulder, walker.length_m("upper_arm"))
    forearm_x, forearm_z = _limb_end(pose.forearm, walker.length_m("lower_arm"))

    lower_y = side * walker.length_m("hip")
    upper_y = side * walker.length_m("shoulder")
    torso = walker.length_m("torso")
    points = np.zeros((len(POINTS), 3, *pose.advance_m.shape))
    points[1, 2] = torso
    points[2, 2] = torso + walker.length_m("head")
    points[3:9, 1] = np.tile(upper_y, (3, 1))
    points[3:9, 2] = torso
    points[5:7, 0], points[5:7, 2] = elbow_x, elbow_z + torso
    points[7:9, 0], points[7:9, 2] = elbow_x + forearm_x, elbow_z + forearm_z + torso
    points[9:17, 1] = np.tile(lower_y, (4, 1))
    points[11:13, 0], points[11:13, 2] = knee_x, knee_z
    points[13:15, 0], points[13:15, 2] = ankle_x, ankle_z
    points[15:17, 0], points[15:17, 2] = toe_x, toe_z

    _pitch_(points[1:9], pose.trunk_pitch)
    _yaw_(points[1:9], pose.trunk_yaw)
    _roll_(points[9:17], pose.pelvis_roll)
    _yaw_(points[9:17], pose.pelvis_yaw)
    points += pose.sway_m
    points[:, 0] += pose.advance_m
    return points


def line_of_sight(aspect_deg: float) -> tuple[float, float]:
    """Return the unit vector in the walker's (forward, left) plane, ``aspect_deg`` to the left of forward."""
    angle = math.radians(aspect_deg)
    return math.cos(angle), math.sin(angle)


def _limb_end(angle: Array, length: float) -> tuple[Array, Array]:
    """Return x and z of the end of a hanging limb that is swung forward by an angle in radians."""
    return length * np.sin(angle), -length * np.cos(angle)


def _pitch_(points: Array, angle: Array) -> None:
    x, z = points[:, 0].copy(), points[:, 2].copy()
    points[:, 0], points[:, 2] = x * np.cos(angle) - z * np.sin(angle), x * np.sin(angle) + z * np.cos(angle)


def _yaw_(points: Array, angle: Array) -> None:
    x, y = points[:, 0].copy(), points[:, 1].copy()
    points[:, 0], points[:, 1] = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _roll_(points: Array, angle: Array) -> None:
    y, z = points[:, 1].copy(), points[:, 2].copy()
    points[:, 1], points[:, 2] = y * np.cos(angle) + z * np.sin(angle), z * np.cos(angle) - y * np.sin(angle)
