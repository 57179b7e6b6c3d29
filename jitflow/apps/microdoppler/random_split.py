"""Compare a split by sessions with a random one: how much of a classifier's accuracy comes from knowing the session."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from jitflow.apps.microdoppler.identity import train_classifier
from jitflow.apps.microdoppler.labelled_images import ImageSets
from jitflow.apps.microdoppler.transfer import draw_per_user
from jitflow.io.progress import meter

log = logging.getLogger(__name__)

_BY_FAR = 0.1


def random_split_accuracy(sets: ImageSets, *, seed: int = 0, **training: Any) -> float:
    """Measure the accuracy of a user classifier on a random split of all real images, of the same sizes.

    Args:
        sets: Images; the real ones are split by sessions.
        seed: Seed of the split and the training.
        training: Further arguments of :func:`train_classifier`.

    Returns:
        The accuracy, in ``[0, 1]``.
    """
    num_users = len(sets.user_ids)
    images, labels = (torch.cat(parts) for parts in zip(sets.real_train, sets.real_val, strict=True))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[draw_per_user(labels, torch.bincount(sets.real_val.labels, minlength=num_users), seed)] = True
    rest = ~held_out
    with meter("training a classifier on a random split", 1, unit="classifiers") as progress:
        training = {"seed": seed, "on_progress": progress.update_share, **training}
        classifier = train_classifier(images[rest], labels[rest], num_users, **training)
    return classifier.accuracy(images[held_out], labels[held_out])


def warn_of_random_split(report: Mapping[str, Any]) -> None:
    """Log a warning where the accuracy on a random split of real images is far above that on other sessions.

    Args:
        report: Report of :func:`~jitflow.apps.microdoppler.judge.evaluate`.
    """
    random, disjoint = report["random_split_accuracy"], report["identity_accuracy_real"]
    if random is not None and random - disjoint > _BY_FAR:
        log.warning(
            "a classifier names the user of %.0f %% of real images on a random split and of %.0f %% on other sessions: "
            "the difference is what it knows of the sessions, not of the users; report the second number",
            *(100 * random, 100 * disjoint),
        )
