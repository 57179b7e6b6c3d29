"""Activities of the simulator against measured tables, closed forms and the laws of the radar."""

import math

import numpy as np
import pytest

from jitflow.apps.microdoppler.gait import (
    ACTIVITIES,
    Radar,
    SpectrogramSettings,
    Walk,
    Walker,
    radar_for_carrier,
    settings_for_radar,
    simulate_signal,
    spectrogram,
)
from jitflow.apps.microdoppler.gait.activities import motion_of
from jitflow.apps.microdoppler.gait.activities.crouch import CYCLE_SEC, SHANK_DEG, THIGH_DEG
from jitflow.apps.microdoppler.gait.activities.fall import (
    DELAY_SEC,
    LATEST_START_SEC,
    PUSH_RAD_S,
    PUSH_SEC,
    tilt_table,
)
from jitflow.apps.microdoppler.gait.activities.motion import Pace
from jitflow.apps.microdoppler.gait.activities.wave import (
    ELBOW_DEG,
    ELBOW_SWING_DEG,
    RAISED_DEG,
    RATE_HZ,
    SHOULDER_SWING_DEG,
)
from jitflow.apps.microdoppler.gait.body import POINTS
from jitflow.apps.microdoppler.gait.echo import SPEED_OF_LIGHT_M_S
from jitflow.errors import ConfigError

# Segments' shares of the body's mass and the places of their centres from the near end (Winter, table 4.1).
MASSES = (
    ("base", "neck", 0.497, 0.50),
    ("neck", "head", 0.081, 0.50),
    ("{}_hip", "{}_knee", 0.100, 0.433),
    ("{}_knee", "{}_ankle", 0.0465, 0.433),
    ("{}_ankle", "{}_toe", 0.0145, 0.50),
    ("{}_shoulder", "{}_elbow", 0.028, 0.436),
    ("{}_elbow", "{}_hand", 0.022, 0.682),
)


def places(activity, walker, time, **pace):
    return dict(zip(POINTS, motion_of(activity, walker, Pace(**pace)).points(time), strict=True))


def velocities(place, time):
    return {name: np.gradient(track, time, axis=-1) for name, track in place.items()}


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_segments_keep_their_lengths_and_nothing_jumps(activity):
    walker = Walker(upper_leg_scale=1.03, elbow_gain=0.8, knee_gain=1.1, asymmetry=0.05, trunk_lean_deg=5)
    time = np.arange(0, 4, 1e-3)
    place = places(activity, walker, time, initial_phase=0.3, speed_factor=1.03)
    for start, end, part in (
        ("base", "neck", "torso"),
        ("left_shoulder", "left_elbow", "upper_arm"),
        ("right_elbow", "right_hand", "lower_arm"),
        ("left_hip", "left_knee", "upper_leg"),
        ("right_knee", "right_ankle", "lower_leg"),
        ("right_ankle", "right_toe", "foot"),
    ):
        length = np.linalg.norm(place[end] - place[start], axis=0)
        np.testing.assert_allclose(length, walker.length_m(part), atol=1e-9)
    speed = np.stack([np.linalg.norm(np.diff(track), axis=0) / 1e-3 for track in place.values()])
    assert speed.max() < 10
    # A part of a recording is the same as in the whole.
    motion = motion_of(activity, walker, Pace(1.03, 0.3))
    np.testing.assert_allclose(motion.points(time[1000:1010]), motion.points(time)[..., 1000:1010], atol=1e-9)


def test_walking_is_the_default_and_other_names_are_refused():
    walker, walk = Walker(), Walk(initial_phase=0.2, start_sec=1.0, snr_db=20)
    np.testing.assert_array_equal(
        simulate_signal(walker, walk, Radar(), 500), simulate_signal(walker, walk, Radar(), 500, activity="walk")
    )
    with pytest.raises(ConfigError, match="did you mean crouch"):
        simulate_signal(walker, walk, Radar(), 500, activity="crouh")


@pytest.mark.parametrize("rv", [1.3, 1.5, 1.9])
def test_runners_fly_and_their_standing_foot_hardly_slips(rv):
    walker = Walker(relative_velocity=rv)
    motion = motion_of("run", walker, Pace())
    cycle = 2 / motion.repetition_hz
    time = np.linspace(0, 2 * cycle, 4001)
    place = dict(zip(POINTS, motion.points(time), strict=True))
    velocity = velocities(place, time)
    assert velocity["base"][0, 1000:3001].mean() == pytest.approx(motion.speed_m_s, rel=0.002)
    phase = time / cycle % 1.0
    standing = (phase > 0.06) & (phase < 0.28)
    assert abs(velocity["right_ankle"][0, standing]).mean() < 0.1 * motion.speed_m_s
    feet = np.min([place[f"{side}_{part}"][2] for side in ("left", "right") for part in ("toe", "ankle")], axis=0)
    ground = feet[standing].mean()
    # Between toe-off (0.36) and the other foot's contact (0.5) both are off the ground.
    assert feet[(phase > 0.42) & (phase < 0.48)].max() > ground + 0.02
    # The swinging leg overtakes the body.
    assert 2.0 < velocity["right_ankle"][0].max() / motion.speed_m_s < 2.6
    knee = np.degrees(np.arccos(np.clip(_cosine(place, "right_hip", "right_knee", "right_ankle"), -1, 1)))
    assert 88 < knee.max() < 105


def _cosine(place, start, middle, end):
    first, second = place[middle] - place[start], place[end] - place[middle]
    return (first * second).sum(0) / np.linalg.norm(first, axis=0) / np.linalg.norm(second, axis=0)


def test_runners_steps_are_those_of_measured_runners():
    def steps(speed):
        rv = speed / 2.2 / Walker().leg_length_m
        motion = motion_of("run", Walker(relative_velocity=rv), Pace())
        assert motion.speed_m_s == pytest.approx(speed)
        return motion.repetition_hz

    # Lieberman et al. 2015: 84.8 +- 3.6 strides a minute at 3 m/s. Cavanagh & Kram 1989: 4 % more from 3.15 to 4.12.
    assert abs(steps(3.0) * 30 - 84.8) < 3.6
    assert steps(4.12) / steps(3.15) == pytest.approx(1.04, abs=0.01)


def test_crouching_keeps_the_balance_and_the_feet():
    walker = Walker()
    motion = motion_of("crouch", walker, Pace())
    assert motion.speed_m_s == 0 and motion.repetition_hz == pytest.approx(1 / CYCLE_SEC)
    time = np.linspace(0, CYCLE_SEC, 801)
    place = dict(zip(POINTS, motion.points(time), strict=True))
    assert np.ptp(place["right_ankle"], axis=1).max() < 1e-9
    # Upright and lowest, in closed form, but for the quiet sway.
    thigh, shank = (np.radians(angle) for angle in (THIGH_DEG, SHANK_DEG))
    drop = walker.length_m("upper_leg") * (1 - np.cos(thigh)) + walker.length_m("lower_leg") * (1 - np.cos(shank))
    assert np.ptp(place["base"][2]) == pytest.approx(drop, abs=0.01)
    np.testing.assert_allclose(place["base"][..., 0], place["base"][..., -1], atol=0.01)
    centre = 0
    for start, end, mass, share in MASSES:
        for side in ("left", "right"):
            near, far = place[start.format(side)], place[end.format(side)]
            centre = centre + mass * (1 if "{}" in start + end else 0.5) * (near + share * (far - near))
    # The heel is about 5 cm behind the ankle.
    assert centre[0].min() > -0.05 and centre[0].max() < walker.length_m("foot")
    velocity = velocities(place, time)
    assert 0.7 < -velocity["base"][2].min() < 1.2
    assert max(abs(track[0]).max() for track in velocity.values()) < 1.6


def test_a_waving_hand_is_a_pendulum_and_the_body_stands():
    walker = Walker(elbow_gain=1.2)
    motion = motion_of("wave", walker, Pace())
    assert motion.repetition_hz == RATE_HZ
    time = np.linspace(0, 2, 8001)
    velocity = velocities(dict(zip(POINTS, motion.points(time), strict=True)), time)
    # At the middle of the swing upper arm and forearm stand at these angles and turn at these rates.
    turn = 2 * np.pi * RATE_HZ * 1.2
    upper, lower = (np.radians(RAISED_DEG), np.radians(RAISED_DEG + ELBOW_DEG))
    rates = turn * np.radians(SHOULDER_SWING_DEG), turn * np.radians(SHOULDER_SWING_DEG + ELBOW_SWING_DEG)
    arms = walker.length_m("upper_arm"), walker.length_m("lower_arm")
    expected = np.hypot(
        arms[0] * rates[0] * np.cos(upper) + arms[1] * rates[1] * np.cos(lower),
        arms[0] * rates[0] * np.sin(upper) + arms[1] * rates[1] * np.sin(lower),
    )
    hand = np.linalg.norm(velocity["right_hand"], axis=0)
    assert hand.max() == pytest.approx(expected, rel=0.02)
    assert 1.5 < abs(velocity["right_hand"][0]).max() < 3.5
    assert max(abs(velocity[name]).max() for name in ("base", "head", "left_hand", "right_shoulder")) < 0.05


def test_falls_land_as_measured_and_lie_still():
    walker = Walker()
    time_of, angle = tilt_table(walker.height_m, PUSH_RAD_S)
    # The energy of a rod that tips over.
    rate = np.gradient(angle, time_of)
    free = (time_of > PUSH_SEC + 0.01) & (time_of < time_of[-1] - 0.01)
    first = PUSH_RAD_S * PUSH_SEC / 2
    energy = PUSH_RAD_S**2 + 3 * 9.81 / walker.height_m * (np.cos(first) - np.cos(angle))
    np.testing.assert_allclose(rate[free] ** 2, energy[free], rtol=1e-3)
    time = np.arange(0, 3, 1e-3)
    place = places("fall", walker, time)
    velocity = velocities(place, time)
    # Choi et al. 2015: 1.271 +- 0.648 s from the loss of balance to the pelvis on the ground, which lands with
    # 2.14 +- 0.63 m/s, and the head with 2.91 +- 0.86 m/s.
    pelvis, head = time_of[-1] + DELAY_SEC, time_of[-1] + 2 * DELAY_SEC
    assert abs(pelvis - 1.271) < 0.648
    assert abs(-velocity["base"][2, round(pelvis * 1000) - 3] - 2.14) < 0.8
    assert abs(-velocity["head"][2, round(head * 1000) - 3] - 2.91) < 0.86
    # A rod that falls as one has its top forward at sqrt(4 g H / 9) at most.
    assert 0.75 < velocity["head"][0].max() / math.sqrt(4 * 9.81 * walker.height_m / 9) < 1
    lying = time > head + 0.2
    assert max(abs(track[:, lying]).max() for track in velocity.values()) < 0.02
    assert all((track[2, -1] + walker.hip_height_m) > 0 for track in place.values())
    # Later in the recording at another phase.
    later = places("fall", walker, time + LATEST_START_SEC / 2, initial_phase=0.5)
    np.testing.assert_allclose(later["head"], place["head"], atol=0.02)


def track_of(activity, carrier_hz, *, aspect_deg=0.0, share=0.5, walker=None):
    """Velocity below which a share of each column's energy lies, in the middle of a recording without noise."""
    radar = radar_for_carrier(carrier_hz, velocity_span_m_s=22)
    settings = SpectrogramSettings(
        duration_sec=2.0,
        window_sec=settings_for_radar(radar).window_sec,
        velocity_min_m_s=-11,
        velocity_max_m_s=11,
    )
    walk = Walk(aspect_deg=aspect_deg, distance_m=40)
    signal = simulate_signal(walker or Walker(), walk, radar, settings.num_samples(radar), activity=activity)
    power, axis, _ = spectrogram(signal, radar, settings)
    below = np.cumsum(power, axis=0)
    return axis[(below >= share * below[-1]).argmax(axis=0)]


@pytest.mark.parametrize("aspect_deg", [0, 40, 150])
def test_a_runners_torso_line_is_the_speed_times_the_cosine(aspect_deg):
    speed = motion_of("run", Walker(), Pace()).speed_m_s
    expected = speed * math.cos(math.radians(aspect_deg))
    assert track_of("run", 24e9, aspect_deg=aspect_deg).mean() == pytest.approx(expected, abs=0.1)
    # Limbs reach two to three times as far.
    reach = track_of("run", 24e9, aspect_deg=aspect_deg, share=0.002 if expected < 0 else 0.998)
    assert 2.0 < abs(reach).max() / abs(expected) < 3.0


@pytest.mark.parametrize("activity", ["run", "wave", "fall"])
def test_doppler_frequencies_are_proportional_to_the_carrier(activity):
    def highest_hz(carrier_hz):
        radar = radar_for_carrier(carrier_hz, velocity_span_m_s=22)
        signal = simulate_signal(Walker(), Walk(distance_m=40), radar, round(2 * radar.prf_hz), activity=activity)
        power = np.fft.fftshift(abs(np.fft.fft(signal * np.hanning(len(signal)))) ** 2)
        frequency = np.fft.fftshift(np.fft.fftfreq(len(signal), 1 / radar.prf_hz))
        # Without the standing body, whose echo is as strong as its parts happen to add up.
        power[abs(frequency) < 0.3 * 2 / radar.wavelength_m] = 0
        return frequency[np.searchsorted(np.cumsum(power) / power.sum(), 0.99)]

    low, high = highest_hz(24e9), highest_hz(77e9)
    assert high / low == pytest.approx(77 / 24, rel=0.05)
    # And the velocity is a human one.
    assert 0.9 < low * SPEED_OF_LIGHT_M_S / 24e9 / 2 < 10


@pytest.mark.parametrize(("activity", "low", "high"), [("crouch", 0.3, 1.6), ("wave", 1.5, 3.0), ("fall", 1.5, 3.5)])
def test_doppler_bands_of_motions_on_the_spot(activity, low, high):
    fast, slow = track_of(activity, 24e9, share=0.995).max(), track_of(activity, 24e9, share=0.005).min()
    assert low < fast < high
    if activity == "fall":
        assert slow > -0.6
    else:
        assert low < -slow < high
    # Seen from behind everything has the other sign.
    assert track_of(activity, 24e9, share=0.005, aspect_deg=180).min() == pytest.approx(-fast, abs=0.15)
