"""Scores of a model with their confidence intervals, collected while samples are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jitflow.evaluation.intervals import Interval, groups_of, jackknife, share


@dataclass
class ScoreSheet:
    """Scores by name, ``SPACE/SCORE``, each with an interval where there are enough samples for one.

    Samples are given in an order in which consecutive ones are of all classes alike: groups of them are left out.

    Attributes:
        metrics: The scores.
        intervals: Their intervals.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)

    def add_share(self, name: str, hits: Tensor) -> None:
        """Add a share of samples.

        Args:
            name: Name of the score.
            hits: Whether each sample counts, shape ``(N,)``.
        """
        self.metrics[name] = float(hits.double().mean())
        if len(hits) > 1:
            self.intervals[name] = share(hits)

    def add_ratio(self, name: str, parts: Tensor, wholes: Tensor | None = None, *, most: float = math.inf) -> None:
        """Add a ratio of sums over samples, such as right tokens over all tokens; without ``wholes`` a mean.

        Args:
            name: Name of the score.
            parts: Part of each sample, shape ``(N,)``, not negative.
            wholes: Whole of each sample, shape ``(N,)``; 1 of each by default.
            most: Largest possible value, such as 1, where its interval ends.
        """
        top, bottom = parts.double(), torch.ones_like(parts, dtype=torch.float64) if wholes is None else wholes.double()
        self.add_by_groups(name, len(parts), lambda kept: float(top[kept].sum() / bottom[kept].sum()), most)

    def add_by_groups(
        self, name: str, num_samples: int, score: Callable[[Sequence[int]], float], most: float = math.inf
    ) -> None:
        """Add any smooth score of a set of samples that is not negative, with an interval by leaving out groups.

        Args:
            name: Name of the score.
            num_samples: Number of samples.
            score: Computes the score of the samples with the given indices.
            most: Largest possible value, where its interval ends.
        """
        everything = range(num_samples)
        self.metrics[name] = score(everything)
        groups = groups_of(num_samples)
        if groups:
            without = [score([*everything[: group.start], *everything[group.stop :]]) for group in groups]
            found = jackknife(self.metrics[name], without)
            self.intervals[name] = replace(found, low=max(0.0, found.low), high=min(most, found.high))
