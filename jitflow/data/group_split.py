"""Hold out whole groups of samples, such as the sessions of a radar campaign, so that no group is on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

# Weight of a label without samples on one side, above any sum of squared shares.
_MISSING = 10.0
_RESTARTS = 4
# Pairs of groups times labels up to which exchanges are tried, which bounds memory.
_MOST_EXCHANGES = 2_000_000


def split_groups(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose whole groups of samples to hold out, so that the share of every label is near the fraction.

    scikit-learn's ``StratifiedGroupKFold`` balances the labels of folds, but may leave one side without a label; here
    that costs more than any imbalance. A local search moves and exchanges groups until nothing improves, from a few
    random beginnings.

    Args:
        labels: Label of each sample, shape ``(N,)``, whole numbers from 0.
        groups: Group of each sample, shape ``(N,)``, whole numbers from 0.
        fraction: Share of each label to hold out, in (0, 1).
        seed: Seed of the search.

    Returns:
        Whether each sample is held out, shape ``(N,)``, bool. A label of a single group is on one side only; whoever
        needs it on both must check that.
    """
    num_groups, num_labels = int(groups.max()) + 1, int(labels.max()) + 1
    counts = np.zeros((num_groups, num_labels))
    np.add.at(counts, (groups, labels), 1)
    generator = np.random.default_rng(seed)
    found = [_improve(generator.random(num_groups) < fraction, counts, fraction) for _ in range(_RESTARTS)]
    # The first of equally good ones.
    chosen, _ = min(found, key=lambda pair: round(pair[1], 9))
    return np.asarray(chosen[groups])


def merge_linked(num: int, links: Iterable[Sequence[int]]) -> np.ndarray:
    """Number the groups of samples that are linked, directly or by others.

    Args:
        num: Number of samples N.
        links: Indices of samples that belong together.

    Returns:
        Group of each sample, shape ``(N,)``, numbered from 0 in order of their first sample.
    """
    parent = list(range(num))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for linked in links:
        for i in linked[1:]:
            a, b = sorted((root(linked[0]), root(i)))
            parent[b] = a
    return np.unique([root(i) for i in range(num)], return_inverse=True)[1]


def _improve(held_out: np.ndarray, counts: np.ndarray, fraction: float) -> tuple[np.ndarray, float]:
    """Move or exchange groups while that brings the held-out shares nearer to the fraction."""
    total = counts.sum(0)
    size = np.maximum(total, 1)

    def cost(held: np.ndarray) -> np.ndarray:
        deviation = (((held - fraction * total) / size) ** 2).sum(-1)
        return np.asarray(deviation + _MISSING * ((held <= 0) | (held >= total)).sum(-1))

    best = float(cost(counts[held_out].sum(0)))
    while True:
        held = counts[held_out].sum(0)
        moves = cost(held + np.where(held_out, -1, 1)[:, None] * counts)
        index, step = [int(moves.argmin())], float(moves.min())
        inside, outside = np.flatnonzero(held_out), np.flatnonzero(~held_out)
        if step >= best - 1e-9 and 0 < len(inside) * len(outside) * counts.shape[1] <= _MOST_EXCHANGES:
            exchanges = cost(held - counts[inside][:, None] + counts[outside][None])
            a, b = np.unravel_index(int(exchanges.argmin()), exchanges.shape)
            index, step = [int(inside[a]), int(outside[b])], float(exchanges.min())
        if step >= best - 1e-9:
            return held_out, best
        best = step
        held_out = held_out.copy()
        held_out[index] ^= True
