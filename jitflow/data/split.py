"""Holding out a part of every class, for data sets that come without a validation split."""

from __future__ import annotations

import numpy as np

from jitflow.errors import ConfigError

# Fixed, so that a model which was trained on one part has never seen the other, whatever the seeds of the runs.
_SPLIT_SEED = 0


def held_out_split(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into those to train on and those held out, class by class.

    The split depends on the labels and the fraction alone. A class keeps at least one sample to train on.

    Args:
        labels: Label of each sample, shape ``(N,)``, int64.
        fraction: Share of each class to hold out, in (0, 1); rounded to whole samples.

    Returns:
        Places of the training and of the held-out samples, each ascending, int64.

    Raises:
        ConfigError: If the fraction is out of range, or so small that nothing is held out.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction must lie in (0, 1); got {fraction}")
    held_out = np.zeros(len(labels), dtype=bool)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    for label, places in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        count = min(round(len(places) * fraction), len(places) - 1)
        if count > 0:
            held_out[np.random.default_rng((_SPLIT_SEED, label)).permutation(places)[:count]] = True
    if not held_out.any():
        raise ConfigError(
            f"val_fraction={fraction} of classes with at most {counts.max()} images holds out nothing; raise it"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
