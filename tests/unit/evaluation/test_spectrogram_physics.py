"""Readings of simulated walks, whose step frequency and speed are known."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Variation,
    dataset_parameters,
    draw_walk,
    draw_walkers,
    simulate_image,
    torso_velocity_m_s,
    true_step_frequency_hz,
)
from jitflow.apps.microdoppler.physics import (
    GaitReadings,
    read_gait,
    settings_from_mapping,
    share_within,
    truth_from_readings,
    truth_from_simulation,
)
from jitflow.errors import ConfigError, DataError

SETTINGS = SpectrogramSettings(
    duration_sec=2.0, velocity_min_m_s=-2, velocity_max_m_s=9, height_px=96, width_px=128, colour_map="jet"
)
VARIATION = Variation(snr_db=(30, 40), aspect_deg=5)
USERS, WALKS = 3, 4


def step_frequency_within(images, users, truth_hz, tolerance=0.05, *, settings=None):
    return share_within(read_gait(images, settings).step_frequency_hz, users, truth_hz, tolerance)


def torso_velocity_within(images, users, truth_m_s, tolerance=0.05, *, settings=None):
    return share_within(read_gait(images, settings).torso_velocity_m_s.abs(), users, truth_m_s, tolerance)


@pytest.fixture(scope="module")
def walks():
    """Images by user, labels, and the true values of each walk."""
    walkers = draw_walkers(USERS, 1, variation=VARIATION, min_cadence_gap=0.12)
    images, truths = [], []
    for user, walker in enumerate(walkers):
        for sample in range(WALKS):
            walk = draw_walk(1, user, sample, variation=VARIATION)
            images.append(simulate_image(walker, walk, Radar(), SETTINGS))
            truths.append((true_step_frequency_hz(walker, walk), torso_velocity_m_s(walker, walk)))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return pixels, torch.arange(USERS).repeat_interleave(WALKS), torch.tensor(truths, dtype=torch.float64)


def test_readings_are_those_of_the_walks(walks):
    images, _, truths = walks
    seen = []
    readings = read_gait(images, SETTINGS, on_progress=lambda *progress: seen.append(progress))
    assert readings.step_frequency_hz.numpy() == pytest.approx(truths[:, 0].numpy(), rel=0.03)
    assert readings.torso_velocity_m_s.numpy() == pytest.approx(truths[:, 1].numpy(), rel=0.06)
    assert seen == [(i + 1, 12) for i in range(12)]


def test_own_users_are_matched_and_another_ones_cadence_is_missed(walks):
    images, users, truths = walks
    truth = truth_from_readings(read_gait(images, SETTINGS), users, USERS)
    hz = truths[:, 0].unflatten(0, (USERS, WALKS)).mean(dim=1)
    assert truth.step_frequency_hz.numpy() == pytest.approx(hz.numpy(), rel=0.03)
    assert step_frequency_within(images, users, truth.step_frequency_hz, settings=SETTINGS) == 1.0
    assert torso_velocity_within(images, users, truth.torso_velocity_m_s, 0.1, settings=SETTINGS) == 1.0
    others = (users + 1) % USERS
    assert step_frequency_within(images, others, truth.step_frequency_hz, settings=SETTINGS) == 0.0
    assert torso_velocity_within(images, users, truth.torso_velocity_m_s * 1.5, settings=SETTINGS) == 0.0
    # Nothing is that exact.
    assert step_frequency_within(images, users, truth.step_frequency_hz, 1e-9, settings=SETTINGS) < 0.7
    # At another time scale the same pictures are of slower walkers.
    slower = SpectrogramSettings(duration_sec=2.4, colour_map="jet")
    assert step_frequency_within(images, users, truth.step_frequency_hz, settings=slower) == 0.0


def test_who_walks_away_is_as_fast(walks):
    images, users, truths = walks
    mirrored = dataclasses.replace(SETTINGS, velocity_min_m_s=-9, velocity_max_m_s=2)
    away = images.flip(2)
    assert (read_gait(away, mirrored).torso_velocity_m_s < 0).all()
    speeds = truths[:, 1].unflatten(0, (USERS, WALKS)).mean(dim=1)
    assert torso_velocity_within(away, users, speeds, 0.1, settings=mirrored) == 1.0


def test_pictures_without_a_walk_are_misses():
    for level in (0, 255, 90):
        blank = torch.full((3, 1, 64, 64), level, dtype=torch.uint8)
        users = torch.zeros(3, dtype=torch.int64)
        assert read_gait(blank).step_frequency_hz.isnan().all()
        assert step_frequency_within(blank, users, torch.tensor([1.8])) == 0.0
    blank = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
    assert torso_velocity_within(blank, users, torch.tensor([1.3])) == 0.0


def test_share_within_counts_edge_and_nan():
    truth = torch.tensor([2.0, 1.0, math.nan], dtype=torch.float64)
    values = torch.tensor([2.1, 1.9, 2.11, 1.04, 0.9, math.nan, 1.0], dtype=torch.float64)
    users = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    assert share_within(values, users, truth, 0.0500001) == pytest.approx(3 / 7)
    assert share_within(values, users, truth, 0.2) == pytest.approx(5 / 7)
    exact = torch.tensor([2.5], dtype=torch.float64)
    assert share_within(exact, torch.tensor([0]), torch.tensor([2.0], dtype=torch.float64), 0.25) == 1.0


def test_the_truth_of_images_is_a_median_of_magnitudes_without_nan():
    steps = torch.tensor([1.0, math.nan, 1.2, 9.0, 2.0, math.nan], dtype=torch.float64)
    speeds = torch.tensor([1.0, -1.1, 1.2, -1.3, -2.0, math.nan], dtype=torch.float64)
    users = torch.tensor([0, 0, 0, 0, 1, 2])
    truth = truth_from_readings(GaitReadings(steps, speeds), users, 3)
    assert truth.step_frequency_hz.tolist()[:2] == [1.2, 2.0]
    assert truth.torso_velocity_m_s.tolist()[:2] == [1.1, 2.0]
    assert math.isnan(truth.step_frequency_hz[2]) and math.isnan(truth.torso_velocity_m_s[2])
    assert "median" in truth.source


def test_the_truth_of_a_simulation_is_its_own():
    simulation = dataset_parameters(
        num_users=3, images_per_user=5, val_fraction=0.4, seed=2, variation=Variation(direction="away"), settings=None
    )
    truth = truth_from_simulation(simulation, [3, 1])
    assert truth.source == "simulation.json"
    assert truth.step_frequency_hz.tolist() == [simulation["users"][i]["step_frequency_hz"] for i in (2, 0)]
    for user_id, speed in zip((3, 1), truth.torso_velocity_m_s.tolist(), strict=True):
        walks = [s for s in simulation["samples"] if s["user_id"] == user_id and s["split"] == "train"]
        assert speed == sorted(-walk["torso_velocity_m_s"] for walk in walks)[1]
    with pytest.raises(DataError, match="user 4"):
        truth_from_simulation(simulation, [1, 4])
    for broken in ({}, {"users": [{}], "samples": []}, {**simulation, "samples": [3]}, []):
        with pytest.raises(DataError, match="not what the simulator writes"):
            truth_from_simulation(broken, [1])


def test_settings_come_back_from_a_simulation_and_from_plain_values():
    simulation = dataset_parameters(num_users=2, images_per_user=2, val_fraction=0.0, settings=SETTINGS)
    assert settings_from_mapping(simulation) == SETTINGS
    assert settings_from_mapping({"duration_sec": 3.0}) == SpectrogramSettings(duration_sec=3.0)
    with pytest.raises(ConfigError, match="did you mean duration_sec"):
        settings_from_mapping({"duration": 3.0})
    with pytest.raises(ConfigError, match="cannot be used"):
        settings_from_mapping({"duration_sec": "long"})


def test_bad_arguments(walks):
    images, users, _ = walks
    hz = torch.ones(3)
    with pytest.raises(ConfigError, match="uint8"):
        read_gait(images.float(), SETTINGS)
    with pytest.raises(ConfigError, match="one for each of 12 pictures"):
        step_frequency_within(images, users[:5], hz, settings=SETTINGS)
    with pytest.raises(ConfigError, match=r"users must lie in \[0, 2\)"):
        share_within(torch.ones(12), users, hz[:2])
    with pytest.raises(ConfigError, match="at least one"):
        share_within(torch.ones(0), users[:0], hz)
    with pytest.raises(ConfigError, match="tolerance"):
        share_within(torch.ones(12), users, hz, 0.0)
