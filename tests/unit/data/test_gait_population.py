"""People and walks drawn from a seed, and what pictures tell about them."""

import dataclasses
import math

import numpy as np
import pytest

from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Variation,
    Walker,
    draw_walk,
    draw_walkers,
    estimate_step_frequency,
    estimate_torso_velocity,
    radar_for_carrier,
    settings_for_radar,
    simulate_image,
    torso_velocity_m_s,
    true_step_frequency_hz,
)
from jitflow.errors import ConfigError


def test_a_user_depends_on_the_seed_and_the_user_alone():
    many = draw_walkers(31, 7)
    assert draw_walkers(4, 7) == many[:4]
    assert len(set(many)) == 31
    assert not set(many) & set(draw_walkers(31, 8))


def test_a_walk_depends_on_seed_user_and_sample_alone():
    walks = {(u, s): draw_walk(3, u, s) for u in range(4) for s in range(5)}
    assert walks[2, 3] == draw_walk(3, 2, 3)
    assert len(set(walks.values())) == 20
    assert draw_walk(4, 2, 3) != walks[2, 3]


def test_draws_stay_within_the_variation():
    variation = Variation(snr_db=(10, 12), distance_m=(3, 4), direction="both", aspect_deg=15)
    walks = [draw_walk(0, 0, sample, variation=variation) for sample in range(300)]
    assert all(10 <= walk.snr_db <= 12 and 3 <= walk.distance_m <= 4 for walk in walks)
    assert all(abs(walk.speed_factor - 1) <= 0.03 for walk in walks)
    assert {abs(walk.aspect_deg) <= 15 or abs(walk.aspect_deg - 180) <= 15 for walk in walks} == {True}
    assert 0.4 < np.mean([walk.aspect_deg > 90 for walk in walks]) < 0.6
    phases = [walk.initial_phase for walk in walks]
    assert np.histogram(phases, 4, (0, 1))[0].min() > 50
    walkers = draw_walkers(100, 0)
    assert all(1.55 <= w.height_m <= 1.92 and 1.1 <= w.relative_velocity <= 1.9 for w in walkers)


def test_without_habits_people_differ_in_height_and_cadence_alone():
    for walker in draw_walkers(5, 0, variation=Variation(habit_strength=0)):
        assert dataclasses.replace(walker, height_m=1.75, relative_velocity=1.5) == Walker()


@pytest.mark.parametrize(("num_users", "gap"), [(2, 0.1), (5, 0.1), (8, 0.1), (16, 0.05), (31, 0.01)])
def test_cadences_keep_apart(num_users, gap):
    for seed in range(20):
        walkers = draw_walkers(num_users, seed, min_cadence_gap=gap)
        cadence = np.sort([true_step_frequency_hz(walker) for walker in walkers])
        assert (cadence[1:] / cadence[:-1]).min() >= 1 + gap
    orders = {
        tuple(np.argsort([w.relative_velocity for w in draw_walkers(num_users, s, min_cadence_gap=gap)]))
        for s in range(20)
    }
    assert len(orders) > 1
    if num_users == 2:
        # Room enough: the range is the one asked for.
        assert min(w.relative_velocity for w in walkers) >= 1.1
        assert max(w.relative_velocity for w in walkers) <= 1.9


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: draw_walkers(31, 0, min_cadence_gap=0.1), "room for 9 users"),
        (lambda: draw_walkers(0, 0), "num_users"),
        (lambda: draw_walkers(2.5, 0), "num_users"),
        (lambda: draw_walkers(2, -1), "seed"),
        (lambda: draw_walkers(2, 0, min_cadence_gap=-0.1), "min_cadence_gap"),
        (lambda: draw_walk(0, -1, 0), "user"),
        (lambda: Variation(height_m=(1.9, 1.5)), "height_m"),
        (lambda: Variation(relative_velocity=(0.1, 1.0)), "relative_velocity"),
        (lambda: Variation(snr_db=(5, float("nan"))), "snr_db"),
        (lambda: Variation(speed_jitter=0.5), "speed_jitter"),
        (lambda: Variation(direction="up"), "direction"),
        (lambda: estimate_step_frequency(np.zeros((4, 4), dtype=np.uint8)), "uint8"),
        (lambda: estimate_step_frequency(np.zeros((8, 8, 3), dtype=np.uint8), limits_hz=(2, 1)), "limits_hz"),
        (lambda: estimate_torso_velocity(np.zeros((8, 8, 3))), "uint8"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ConfigError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)


def errors_of_estimates(*, duration_sec, num=60, carrier_hz=24e9, min_cadence_gap=0.0, spoil_levels=0.0, seed=1):
    """Relative errors of step frequency and torso velocity over walks of ten users (five with a gap)."""
    radar = radar_for_carrier(carrier_hz)
    settings = dataclasses.replace(settings_for_radar(radar), duration_sec=duration_sec)
    walkers = draw_walkers(5 if min_cadence_gap else 10, seed, min_cadence_gap=min_cadence_gap)
    rng = np.random.default_rng(0)
    errors = []
    for index in range(num):
        user, sample = index % len(walkers), index // len(walkers)
        walk = draw_walk(seed, user, sample)
        image = simulate_image(walkers[user], walk, radar, settings)
        if spoil_levels:
            image = np.clip(image + rng.normal(0, spoil_levels, image.shape), 0, 255).astype(np.uint8)
        errors.append(
            (
                estimate_step_frequency(image, settings) / true_step_frequency_hz(walkers[user], walk) - 1,
                estimate_torso_velocity(image, settings) / torso_velocity_m_s(walkers[user], walk) - 1,
            )
        )
    return np.array(errors).T


@pytest.mark.parametrize(
    "case",
    [
        {"duration_sec": 2.0},
        {"duration_sec": 2.5},
        {"duration_sec": 3.0},
        {"duration_sec": 2.5, "min_cadence_gap": 0.1},
        {"duration_sec": 2.5, "min_cadence_gap": 0.1, "spoil_levels": 25.0},
        {"duration_sec": 2.5, "carrier_hz": 77e9, "num": 20},
    ],
    ids=str,
)
def test_estimates_agree_with_the_truth(case):
    steps, torso = errors_of_estimates(**case)
    assert np.mean(abs(steps) < 0.05) >= 0.95
    assert np.median(abs(steps)) < 0.005
    assert np.mean(abs(torso) < 0.05) >= 0.9
    assert abs(torso).max() < 0.12


def test_estimates_follow_colours_axes_and_size():
    walker, walk = draw_walkers(1, 0)[0], draw_walk(0, 0, 0)
    radar = radar_for_carrier(24e9, velocity_span_m_s=20)
    settings = SpectrogramSettings(
        velocity_min_m_s=-8, velocity_max_m_s=10, colour_map="jet", height_px=200, width_px=300, dynamic_range_db=50
    )
    image = simulate_image(walker, walk, radar, settings)
    assert estimate_step_frequency(image, settings) == pytest.approx(true_step_frequency_hz(walker, walk), rel=0.03)
    assert estimate_torso_velocity(image, settings) == pytest.approx(torso_velocity_m_s(walker, walk), rel=0.06)


def test_walking_away_reads_as_a_negative_velocity():
    settings = SpectrogramSettings(velocity_min_m_s=-9, velocity_max_m_s=3)
    walker, walk = draw_walkers(1, 0)[0], draw_walk(0, 0, 0, variation=Variation(direction="away"))
    image = simulate_image(walker, walk, Radar(), settings)
    assert estimate_torso_velocity(image, settings) == pytest.approx(torso_velocity_m_s(walker, walk), rel=0.08)
    assert torso_velocity_m_s(walker, walk) < -0.5


def test_pictures_of_nothing_have_no_step_frequency():
    rng = np.random.default_rng(0)
    flat = np.full((256, 256, 3), 0, dtype=np.uint8)
    assert math.isnan(estimate_step_frequency(flat))
    assert math.isnan(estimate_torso_velocity(flat, SpectrogramSettings(colour_map="grey")))
    for _ in range(20):
        assert math.isnan(estimate_step_frequency(rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)))
