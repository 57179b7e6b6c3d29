"""Simulated spectrograms of people who walk as a user's real samples do: the baseline without a generator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Variation,
    Walker,
    draw_walkers,
    radar_for_carrier,
    settings_for_radar,
)
from jitflow.apps.microdoppler.gait.campaign import Campaign, draw_session, draw_trial
from jitflow.apps.microdoppler.gait.picture import spectrogram_db
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.physics import GaitTruth, levels_below_peak, read_gait, truth_from_readings
from jitflow.apps.microdoppler.study.classifiers import SIDE_PX
from jitflow.core.seeding import mix_seeds

_CARRIER_HZ = 24e9
# Step frequency of a relative velocity: 2 sqrt(rv) / 1.346; see the gait simulator.
_CYCLE = 1.346 / 2
_HEIGHTS_M, _VELOCITIES = (1.5, 2.0), (0.6, 2.8)


def settings_of(scale: ArrayScale) -> SpectrogramSettings | None:
    """Return the axes of spectrograms as the gait is read from them; None if time or velocity are unknown.

    Args:
        scale: Scale of the spectrograms.
    """
    axes = scale.axes.of_figure()
    if axes is None or scale.num_channels != 1:
        return None
    radar = radar_for_carrier(scale.axes.carrier_hz or _CARRIER_HZ)
    return dataclasses.replace(
        settings_for_radar(radar),
        duration_sec=axes.duration_sec,
        velocity_min_m_s=axes.velocity_min_m_s,
        velocity_max_m_s=axes.velocity_max_m_s,
    )


def simulate_users(
    real: LabelledImages, counts: Sequence[int], scale: ArrayScale, settings: SpectrogramSettings, seed: int
) -> LabelledImages:
    """Simulate walks of people with the step frequency and the speed that are read from the real samples.

    Bodies, habits and sessions are drawn at random; the mean level of a user's walks is that of the real samples.

    Args:
        real: Real samples of the subset.
        counts: How many of each user.
        scale: Scale of the spectrograms.
        settings: Their axes.
        seed: Seed of everything.

    Returns:
        The spectrograms, by user.
    """
    span_db = scale.range_db[1] - scale.range_db[0]
    readings = read_gait(levels_below_peak(real.images, span_db / settings.dynamic_range_db), settings)
    truth = truth_from_readings(readings, real.labels, len(counts))
    radar = radar_for_carrier(scale.axes.carrier_hz or _CARRIER_HZ, velocity_span_m_s=settings.velocity_span_m_s * 1.02)
    parts = []
    for user, count in enumerate(counts):
        own = real.images[real.labels == user].float() / 255
        levels = [_simulate(truth, user, i, radar, settings, seed) for i in range(count)]
        low, high = scale.range_db
        scaled = (torch.stack(levels) - low) / (high - low)
        parts.append((scaled + own.mean() - scaled.mean()).clamp(0, 1))
    labels = torch.tensor([user for user, count in enumerate(counts) for _ in range(count)])
    return LabelledImages((torch.cat(parts) * 255).round().to(torch.uint8), labels)


def _simulate(
    truth: GaitTruth, user: int, number: int, radar: Radar, settings: SpectrogramSettings, seed: int
) -> Tensor:
    """Simulate one walk, in dB, shape ``(1, 64, 64)``, the highest velocity on top."""
    own_seed = mix_seeds(seed, user, number)
    campaign = Campaign()
    walker = _walker_like(truth, user, draw_walkers(1, own_seed)[0])
    session = draw_session(own_seed, user, number, walker, campaign)
    variation = Variation()
    trial = draw_trial((own_seed, user, number, 0), session, "walk", campaign, variation, settings.duration_sec)
    signal = trial.signal(radar, settings.num_samples(radar))
    found = spectrogram_db(signal, radar, settings)["spectrogram"][::-1]
    levels = torch.from_numpy(np.ascontiguousarray(found))[None, None]
    return interpolate(levels, (SIDE_PX, SIDE_PX), mode="bicubic", antialias=True, align_corners=False)[0]


def _walker_like(truth: GaitTruth, user: int, drawn: Walker) -> Walker:
    """Return a drawn walker with the pace of a user, as far as that could be read."""
    steps_hz, speed = float(truth.step_frequency_hz[user]), float(truth.torso_velocity_m_s[user])
    if not math.isfinite(steps_hz):
        return drawn
    velocity = float(np.clip((steps_hz * _CYCLE) ** 2, *_VELOCITIES))
    if not math.isfinite(speed):
        return dataclasses.replace(drawn, relative_velocity=velocity)
    height = float(np.clip(speed / velocity / (drawn.leg_length_m / drawn.height_m), *_HEIGHTS_M))
    return dataclasses.replace(drawn, relative_velocity=velocity, height_m=height)
