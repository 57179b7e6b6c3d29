"""Gait scores: share of spectrograms whose step frequency and torso velocity are near those of their user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.labelled_images import ImageSets, LabelledImages
from jitflow.apps.microdoppler.physics import (
    GaitReadings,
    GaitTruth,
    levels_below_peak,
    near_truth,
    read_gait,
    truth_from_readings,
)
from jitflow.io.progress import meter

_TOLERANCE = 0.05
_NAMES = ("step_frequency_within_5_percent", "torso_velocity_within_5_percent")
_TWO_CHANNELS = "spectrograms of two channels are not read"
_NO_SETTINGS = (
    "the axes and colours of the images are unknown (no simulation.json beside the data); "
    "give their spectrogram settings to have step frequency and torso velocity read"
)


def score_gait(
    sets: ImageSets,
    users: list[dict[str, Any]],
    settings: SpectrogramSettings | None,
    truth: GaitTruth | None,
    span_db: float | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Compare step frequency and torso velocity, read from the images, with those of the users.

    Args:
        sets: Generated and real images.
        users: A row for each user, to which the user's own scores are added.
        settings: Axes, range and colours of the images; None leaves the gait out.
        truth: How the users walk; None takes the medians of the training images.
        span_db: For images of spectrogram arrays the decibels from black to white; None for pictures.

    Returns:
        Shares of images within 5 % of the user, of generated and (``..._real``) held-out images, None without
        settings; ``truth_source``; ``physics_skipped``, why they were left out. And whether each generated image is,
        shape ``(N,)``, by the name of its share.
    """
    has_two_channels = span_db is not None and sets.generated.images.shape[1] != 1
    if settings is None or has_two_channels:
        empty: dict[str, Any] = dict.fromkeys([f"{name}{suffix}" for name in _NAMES for suffix in ("", "_real")])
        reason = _TWO_CHANNELS if has_two_channels else _NO_SETTINGS
        return {**empty, "truth_source": None, "physics_skipped": reason}, {}
    chosen = {"generated": sets.generated, "held out": sets.real_val}
    if truth is None:
        chosen["training"] = sets.real_train
    if span_db is not None:
        factor = span_db / settings.dynamic_range_db
        chosen = {
            name: LabelledImages(levels_below_peak(images, factor), labels) for name, (images, labels) in chosen.items()
        }
    readings = _read_gaits(chosen, settings)
    if truth is None:
        truth = truth_from_readings(readings["training"], sets.real_train.labels, len(users))
    near = {name: _near_truth(readings[name], chosen[name], truth) for name in ("generated", "held out")}
    report: dict[str, Any] = _shares(near["generated"])
    report |= {f"{name}_real": value for name, value in _shares(near["held out"]).items()}
    _add_to_users(users, readings["generated"], chosen["generated"], truth)
    return {**report, "truth_source": truth.source, "physics_skipped": None}, near["generated"]


def _read_gaits(chosen: Mapping[str, LabelledImages], settings: SpectrogramSettings) -> dict[str, GaitReadings]:
    readings: dict[str, GaitReadings] = {}
    with meter("reading gaits", sum(len(images) for images, _ in chosen.values())) as progress:
        before = 0
        for name, (images, _) in chosen.items():

            def on_progress(done: int, total: int, before: int = before) -> None:
                progress.update(before + done)

            readings[name] = read_gait(images, settings, on_progress=on_progress)
            before += len(images)
    return readings


def _shares(near: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(hits.double().mean()) for name, hits in near.items()}


def _near_truth(readings: GaitReadings, images: LabelledImages, truth: GaitTruth) -> dict[str, Tensor]:
    """Whether each image is near its user, in step frequency and in torso velocity."""
    values = (readings.step_frequency_hz, readings.torso_velocity_m_s.abs())
    true = (truth.step_frequency_hz, truth.torso_velocity_m_s)
    return {
        name: near_truth(value, images.labels, own, _TOLERANCE)
        for name, value, own in zip(_NAMES, values, true, strict=True)
    }


def _add_to_users(
    users: list[dict[str, Any]], readings: GaitReadings, generated: LabelledImages, truth: GaitTruth
) -> None:
    for label, user in enumerate(users):
        own = generated.labels == label
        mine = GaitReadings(readings.step_frequency_hz[own], readings.torso_velocity_m_s[own])
        user["step_frequency_hz"] = float(truth.step_frequency_hz[label])
        user["torso_velocity_m_s"] = float(truth.torso_velocity_m_s[label])
        user["step_frequency_hz_generated"] = float(mine.step_frequency_hz.nanmedian())
        user["torso_velocity_m_s_generated"] = float(mine.torso_velocity_m_s.abs().nanmedian())
        images = LabelledImages(generated.images[own], generated.labels[own])
        user |= _shares(_near_truth(mine, images, truth))
