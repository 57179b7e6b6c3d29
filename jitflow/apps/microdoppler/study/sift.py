"""Sift generated spectrograms: drop those that a critic or the physics of the gait reject."""

from __future__ import annotations

import torch
from torch import Tensor

from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.physics import levels_below_peak, near_truth, read_gait, truth_from_readings
from jitflow.apps.microdoppler.study.classifiers import CNN, predict_users
from jitflow.apps.microdoppler.study.settings import TrainingsOptions


def accepted_samples(
    generated: LabelledImages,
    real: LabelledImages,
    num_users: int,
    *,
    critic_seed: int,
    trainings: TrainingsOptions,
    settings: SpectrogramSettings | None,
    span_db: float,
) -> Tensor:
    """Tell which generated spectrograms pass, by the real samples of the same subset alone.

    The critic is the small network, trained on the augmented real samples; it must name the user that was asked for.
    The step frequency must be near the median of the user's real samples, if it can be read.

    Args:
        generated: Generated spectrograms and the users they were made for.
        real: Real samples of the subset.
        num_users: Number of users.
        critic_seed: Seed of the critic.
        trainings: Its steps, and the largest relative difference of the step frequency.
        settings: Axes of the spectrograms; None leaves the gait out.
        span_db: Decibels from black to white.

    Returns:
        Whether each passes, shape ``(N,)``, bool.
    """
    named = predict_users(
        CNN, real, generated.images, num_users, seed=critic_seed, num_steps=trainings.cnn_steps, classical=True
    )
    passed = named == generated.labels
    if settings is None:
        return passed
    readings, own = (
        read_gait(levels_below_peak(images, span_db / settings.dynamic_range_db), settings)
        for images in (generated.images, real.images)
    )
    truth = truth_from_readings(own, real.labels, num_users)
    near = near_truth(readings.step_frequency_hz, generated.labels, truth.step_frequency_hz, trainings.step_tolerance)
    # Of a user whose own samples tell nothing, nothing can be asked.
    return passed & (near | torch.isnan(truth.step_frequency_hz)[generated.labels])


def first_of_each(labels: Tensor, counts: list[int], allowed: Tensor | None = None) -> Tensor:
    """Choose the first samples of each user.

    Args:
        labels: User of each sample, shape ``(N,)``.
        counts: How many of each user at most.
        allowed: Whether each sample may be chosen; all by default.

    Returns:
        Indices, by user.
    """
    may = torch.ones_like(labels, dtype=torch.bool) if allowed is None else allowed
    return torch.cat([torch.nonzero((labels == user) & may)[:count, 0] for user, count in enumerate(counts)])
