"""The walking model against the check tables of the specification."""

import numpy as np
import pytest

from jitflow.apps.microdoppler.gait import Walker, body_points, cycle_duration_sec, joint_angles
from jitflow.apps.microdoppler.gait.body import PARTS, POINTS
from jitflow.apps.microdoppler.gait.joints import periodic_pchip, support_fraction
from jitflow.errors import ConfigError

PHASES = np.array([0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9])
ANGLES = {
    "hip": [23.211, 15.880, 0.827, -15.000, -8.640, 12.826, 25.706],
    "knee": [3.356, 4.857, 4.809, 16.565, 44.223, 69.306, 24.934],
    "ankle": [-2.412, -17.354, -8.068, 7.021, -18.893, -9.972, -2.412],
    "elbow": [13.678, 14.383, 26.673, 46.960, 43.399, 27.349, 15.966],
    "shoulder": [-19.230, -16.400, -4.410, 10.410, 7.580, -4.410, -16.400],
    "thorax_torsion": [2.179, 2.000, -0.207, -2.179, -2.000, 0.207, 2.250],
}
# At phases 0, .25 and .6.
PLACES = {
    "right_toe": [(0.5677, -0.0921, -0.7589), (0.5759, -0.2531, -0.9001), (0.4954, -0.0785, -0.9654)],
    "right_ankle": [(0.3302, -0.1171, -0.8339), (0.3311, -0.2495, -0.8479), (0.4160, -0.0873, -0.7282)],
    "right_knee": [(0.1848, -0.1324, -0.4290), (0.3610, -0.2192, -0.4195), (0.7566, -0.1332, -0.4688)],
    "left_ankle": [(-0.3527, 0.1472, -0.8159), (0.0911, 0.0982, -0.6696), (1.0501, 0.2035, -0.8573)],
    "right_hand": [(-0.1471, -0.2051, -0.0988), (0.4301, -0.2486, -0.0750), (1.0905, -0.2178, -0.0282)],
    "head": [(0.0398, 0.0146, 0.6954), (0.3654, -0.0222, 0.7277), (0.8430, 0.0004, 0.6965)],
    "base": [(-0.0007, 0.0162, -0.0350), (0.3548, -0.0222, -0.0037), (0.8325, 0, -0.0350)],
}
# Table 1.7: rv, speed at 1.75 m, cycle, stride, steps/s, then peaks in multiples of the speed.
OUTCOMES = [
    (0.8, 0.69, 1.505, 1.03, 1.33, 5.70, 4.64, 2.27, 2.00, 1.53, 0.78, 1.22, -1.12, 0.35),
    (1.0, 0.86, 1.346, 1.16, 1.49, 5.18, 4.24, 2.16, 2.06, 1.47, 0.80, 1.20, -0.96, 0.29),
    (1.3, 1.12, 1.181, 1.32, 1.69, 4.64, 3.83, 2.05, 2.13, 1.40, 0.83, 1.17, -0.81, 0.17),
    (1.6, 1.37, 1.064, 1.46, 1.88, 4.33, 3.59, 1.98, 2.21, 1.35, 0.85, 1.15, -0.79, 0.03),
    (2.0, 1.72, 0.952, 1.64, 2.10, 4.04, 3.37, 1.92, 2.31, 1.30, 0.86, 1.14, -0.81, -0.15),
    (2.5, 2.15, 0.851, 1.83, 2.35, 3.79, 3.18, 1.85, 2.41, 1.25, 0.88, 1.12, -0.87, -0.36),
]


@pytest.mark.parametrize("joint", ANGLES)
def test_joint_angles_of_the_check_table(joint):
    # The table is rounded to three places.
    np.testing.assert_allclose(getattr(joint_angles(PHASES, 1.5), joint), ANGLES[joint], atol=5.1e-4)


def test_global_quantities_of_the_check_table():
    walker = Walker()
    cycle = cycle_duration_sec(1.5)
    assert cycle == pytest.approx(1.09900, abs=5e-6)
    assert support_fraction(1.5) == pytest.approx(0.62188, abs=5e-6)
    assert walker.leg_length_m == pytest.approx(0.85925, abs=5e-6)
    assert 1.5 * walker.leg_length_m == pytest.approx(1.28888, abs=5.1e-6)
    assert 1.5 * walker.leg_length_m * cycle == pytest.approx(1.41648, abs=1e-5)


@pytest.mark.parametrize("point", PLACES)
def test_places_of_the_check_table(point):
    # The table's times are phases, and its numbers are rounded to four places.
    time = np.array([0, 0.25, 0.6]) * cycle_duration_sec(1.5)
    places = body_points(Walker(), time)[POINTS.index(point)].T
    np.testing.assert_allclose(places, PLACES[point], atol=5.1e-5)


@pytest.mark.parametrize("row", OUTCOMES, ids=lambda row: f"rv{row[0]}")
def test_kinematic_outcomes_of_table_1_7(row):
    rv = row[0]
    walker = Walker(relative_velocity=rv)
    cycle, speed = cycle_duration_sec(rv), rv * walker.leg_length_m
    step = cycle / 4096
    x = body_points(walker, np.arange(-1, 4097) * step)[:, 0]
    velocity = dict(zip(POINTS, (x[:, 2:] - x[:, :-2]) / (2 * step) / speed, strict=True))
    peaks = [velocity[name].max() for name in ("right_toe", "right_ankle", "right_knee", "right_hand", "head")]
    lows = [velocity["base"].min(), velocity["base"].max(), velocity["right_toe"].min(), velocity["right_hand"].min()]
    found = [speed, cycle, speed * cycle, 2 / cycle, *peaks, *lows]
    np.testing.assert_allclose(found, row[1:], atol=0.0065)


def test_consistent_scaling_keeps_the_standing_foot():
    # Section 1.6: mean forward slip of the ankle, either way, from 10 to 50 % of the cycle.
    for rv, slip in ((1.0, 0.19), (1.6, 0.19), (2.0, 0.23)):
        walker, cycle = Walker(relative_velocity=rv), cycle_duration_sec(rv)
        time = np.linspace(0.1, 0.5, 400) * cycle
        ankle = body_points(walker, time)[POINTS.index("right_ankle"), 0]
        assert abs(np.gradient(ankle, time)).mean() == pytest.approx(slip, abs=0.0065)


def test_curves_are_those_of_scipy():
    interpolate = pytest.importorskip("scipy.interpolate")
    points = [(0.17, 3.0), (0.4, 3.0), (0.75, 70.0), (1.0, 3.0)]
    x = np.array([time + turn for turn in (-2, -1, 0, 1, 2) for time, _ in points])
    y = np.array([value for _ in range(5) for _, value in points])
    t = np.linspace(0, 1, 501, endpoint=False)
    np.testing.assert_allclose(periodic_pchip(points, t), interpolate.PchipInterpolator(x, y)(t), atol=1e-11)


def test_left_is_right_half_a_cycle_later_mirrored():
    walker, cycle = Walker(), cycle_duration_sec(1.5)
    time = np.linspace(0, cycle, 50)
    now, later = body_points(walker, time), body_points(walker, time + cycle / 2)
    advance = 1.5 * walker.leg_length_m * cycle / 2
    for name in ("toe", "knee", "hand", "elbow"):
        left, right = now[POINTS.index(f"left_{name}")], later[POINTS.index(f"right_{name}")]
        # The torsions of the trunk are not quite symmetric in the model; along the walk it is.
        np.testing.assert_allclose(left[0], right[0] - advance, atol=0.012)


@pytest.mark.parametrize("rv", [0.3, 0.5, 0.9, 1.3, 1.9, 3.0])
def test_segments_keep_their_lengths_and_the_gait_its_period(rv):
    walker = Walker(
        relative_velocity=rv,
        upper_leg_scale=1.03,
        lower_arm_scale=0.97,
        hip_gain=1.1,
        arm_swing_gain=0.6,
        asymmetry=0.05,
        phase_asymmetry_cycles=0.01,
        trunk_lean_deg=5,
    )
    cycle = cycle_duration_sec(rv)
    time = np.linspace(0, cycle, 101)
    points = dict(zip(POINTS, body_points(walker, time), strict=True))
    for start, end, part in (
        ("base", "neck", "torso"),
        ("neck", "left_shoulder", "shoulder"),
        ("right_shoulder", "right_elbow", "upper_arm"),
        ("left_elbow", "left_hand", "lower_arm"),
        ("base", "left_hip", "hip"),
        ("left_hip", "left_knee", "upper_leg"),
        ("right_knee", "right_ankle", "lower_leg"),
        ("left_ankle", "left_toe", "foot"),
    ):
        length = np.linalg.norm(points[end] - points[start], axis=0)
        np.testing.assert_allclose(length, walker.length_m(part), atol=1e-12)
    for place in points.values():
        advance = place[:, -1] - place[:, 0]
        np.testing.assert_allclose(advance, [rv * walker.leg_length_m * cycle, 0, 0], atol=1e-9)


def test_habits_do_what_they_say():
    time = np.linspace(0, cycle_duration_sec(1.5), 300)

    def swing(walker, name):
        place = dict(zip(POINTS, body_points(walker, time), strict=True))
        return np.ptp(place[name][0] - place["base"][0])

    assert swing(Walker(arm_swing_gain=1.4), "left_hand") > 1.15 * swing(Walker(), "left_hand")
    assert swing(Walker(hip_gain=1.1), "left_knee") > 1.05 * swing(Walker(), "left_knee")
    assert swing(Walker(asymmetry=0.1), "left_knee") > 1.1 * swing(Walker(asymmetry=0.1), "right_knee")
    lean = body_points(Walker(trunk_lean_deg=6), time)[1, 0] - body_points(Walker(), time)[1, 0]
    assert lean.mean() == pytest.approx(Walker().length_m("torso") * np.sin(np.radians(6)), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"height_m": 5}, "height_m"),
        ({"height_m": float("nan")}, "height_m"),
        ({"relative_velocity": 0}, "relative_velocity"),
        ({"relative_velocity": 3.1}, "relative_velocity"),
        ({"foot_scale": 0}, "foot_scale"),
        ({"knee_gain": -1}, "knee_gain"),
        ({"asymmetry": 1}, "asymmetry"),
        ({"part_gain_db": (0.0,)}, "part_gain_db"),
        ({"part_gain_db": (99.0,) * len(PARTS)}, "part_gain_db"),
    ],
)
def test_bad_bodies_are_named(arguments, word):
    with pytest.raises(ConfigError, match=word) as caught:
        Walker(**arguments)
    assert "\n" not in str(caught.value)


def test_a_walk_too_fast_for_the_model_is_refused():
    with pytest.raises(ConfigError, match="relative_velocity"):
        body_points(Walker(relative_velocity=2.9), np.zeros(1), speed_factor=1.1)
