"""Compare a split by sessions with a random one: how much of a classifier's accuracy comes from knowing the session."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from jitflow.apps.microdoppler.identity import train_classifier
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.transfer import draw_per_user

log = logging.getLogger(__name__)

_BY_FAR = 0.1


def random_split_accuracy(
    real_train: LabelledImages,
    real_val: LabelledImages,
    num_users: int,
    *,
    seed: int = 0,
    **training: Any,
) -> float:
    """Measure the accuracy of a user classifier on a random split of all real images, of the same sizes.

    Args:
        real_train: Images of the sessions to train on.
        real_val: Images of other sessions.
        num_users: Number of users.
        seed: Seed of the split and the training.
        training: Further arguments of :func:`train_classifier`.

    Returns:
        The accuracy, in ``[0, 1]``.
    """
    images = torch.cat([real_train.images, real_val.images])
    labels = torch.cat([real_train.labels, real_val.labels])
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[draw_per_user(labels, torch.bincount(real_val.labels, minlength=num_users), seed)] = True
    classifier = train_classifier(images[~held_out], labels[~held_out], num_users, seed=seed, **training)
    return classifier.accuracy(images[held_out], labels[held_out])


def warn_of_random_split(report: Mapping[str, Any]) -> None:
    """Log a warning where the accuracy on a random split of real images is far above that on other sessions.

    Args:
        report: Report of :func:`~jitflow.apps.microdoppler.image_scores.evaluate_images`.
    """
    random, disjoint = report["random_split_accuracy"], report["identity_accuracy_real"]
    if random is not None and random - disjoint > _BY_FAR:
        log.warning(
            "a classifier names the user of %.0f %% of real images on a random split and of %.0f %% on other sessions: "
            "the difference is what it knows of the sessions, not of the users; report the second number",
            *(100 * random, 100 * disjoint),
        )
