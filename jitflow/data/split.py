"""Hold out a validation split, for data sets without one."""

from __future__ import annotations

import numpy as np

from jitflow.errors import ConfigError

# Fixed, so that a model trained on one part has never seen the other, whatever the seeds of the runs.
_SPLIT_SEED = 0


def held_out_split(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into a training and a held-out set, class by class.

    The split depends on the labels and the fraction alone. A class keeps at least one sample to train on.

    Args:
        labels: Label of each sample, shape ``(N,)``, int64.
        fraction: Share of each class to hold out, in (0, 1); rounded to whole samples.

    Returns:
        Indices of the training and of the held-out samples, each ascending, int64.

    Raises:
        ConfigError: If the fraction is out of range, or too small to hold out a sample.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction must lie in (0, 1); got {fraction}")
    held_out = np.zeros(len(labels), dtype=bool)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    for label, indices in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        count = min(round(len(indices) * fraction), len(indices) - 1)
        if count > 0:
            held_out[np.random.default_rng((_SPLIT_SEED, label)).permutation(indices)[:count]] = True
    if not held_out.any():
        raise ConfigError(
            f"val_fraction={fraction} of classes with at most {counts.max()} images holds out nothing; raise it"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
