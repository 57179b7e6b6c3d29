"""Confidence intervals of scores: the uncertainty that comes from the number of samples drawn, at a fixed model.

Three kinds of score, three methods. A mean over samples is bootstrapped. An unbiased score (KID) is computed on
disjoint sets of samples. A score that is biased in small sets (a Frechet distance) is neither: resampling with
replacement repeats images, which shrinks the covariance and shifts the distance, and small sets add bias of their own.
Its interval is a delete-a-group jackknife: the score of nearly all samples, without one group at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from jitflow.errors import ConfigError, DataError

LEVEL = 0.95
"""Probability with which an interval covers, unless another is asked for."""
NUM_GROUPS = 10
"""Groups of a jackknife and disjoint sets, where there are samples enough."""
_NUM_RESAMPLES = 1000
# Drawn values in memory at once.
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a score.

    Attributes:
        low: Lower end, in the unit of the score.
        high: Upper end.
        level: Probability that an interval made in this way covers the expected score of this many samples.
        method: How it was made, for the report.
        replicates: The score without each group of samples, shape ``(G,)``, in the order of the groups; empty if
            unknown. Models that were judged on the same seeds are compared by them, group by group.
    """

    low: float
    high: float
    level: float = LEVEL
    method: str = "bootstrap"
    replicates: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def record(self) -> dict[str, Any]:
        """Return the interval as plain values for JSON; the inverse of :meth:`from_record`."""
        record = asdict(self)
        replicates = list(record.pop("replicates"))
        return {**record, "replicates": replicates} if replicates else record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Interval:
        """Rebuild an interval from :meth:`record`.

        Raises:
            ConfigError: If the record is not one of an interval.
        """
        try:
            ends = float(record["low"]), float(record["high"])
            replicates = tuple(map(float, record.get("replicates", ())))
            return cls(*ends, float(record["level"]), str(record["method"]), replicates)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"no interval (low, high, level, method): {record!r} ({error})") from None


def bootstrap_mean(values: Tensor | Sequence[float], *, seed: int, level: float = LEVEL) -> Interval:
    """Percentile bootstrap interval of the mean of one value for each sample.

    Not for Frechet distances, KID or anything else that compares samples with each other: repeated samples bias those.

    Args:
        values: Shape ``(N,)``, such as 1 for a sample that lies on the real manifold and 0 for another.
        seed: Seed of the resamples, which determines the interval.
        level: Coverage probability, between 0 and 1.

    Returns:
        The interval; it has no width if all values are equal.

    Raises:
        ConfigError: If there are fewer than two values or a setting is out of range.
        DataError: If a value is not finite.

    References:
        Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    rows = _checked(values, level)
    draws = torch.Generator().manual_seed(seed)
    at_once = max(1, _CHUNK_VALUES // rows.numel())
    found = []
    for start in range(0, _NUM_RESAMPLES, at_once):
        size = (min(at_once, _NUM_RESAMPLES - start), len(rows))
        found.append(rows[torch.randint(len(rows), size, generator=draws)].mean(dim=1))
    tail = (1 - level) / 2
    low, high = torch.cat(found).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    without = tuple(float(part.mean()) for part in _without_groups(rows))
    return Interval(low, high, level, f"bootstrap, {_NUM_RESAMPLES} resamples", without)


def share(hits: Tensor | Sequence[bool], *, level: float = LEVEL) -> Interval:
    """Wilson score interval of a share of samples; unlike a bootstrap it has a width where none or all are hits.

    Args:
        hits: Whether each sample counts, shape ``(N,)``.
        level: Coverage probability, between 0 and 1.

    Returns:
        The interval, inside ``[0, 1]``.

    Raises:
        ConfigError: If there are fewer than two samples.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    rows = _checked(hits, level)
    num, mean, z = len(rows), float(rows.mean()), NormalDist().inv_cdf((1 + level) / 2)
    centre, half = mean + z * z / (2 * num), z * (mean * (1 - mean) / num + (z / (2 * num)) ** 2) ** 0.5
    low, high = ((centre + side * half) / (1 + z * z / num) for side in (-1, 1))
    # Exactly, where rounding leaves 1e-19.
    ends = 0.0 if mean == 0 else low, 1.0 if mean == 1 else high
    without = tuple(float(part.mean()) for part in _without_groups(rows))
    return Interval(*ends, level, "Wilson score", without)


def disjoint_sets(scores: Tensor | Sequence[float], *, value: float | None = None, level: float = LEVEL) -> Interval:
    """Student's t interval of an unbiased score from its values on disjoint sets of samples of equal size.

    Args:
        scores: The score of each of K sets, shape ``(K,)``.
        value: The reported score, around which the interval is laid; the mean of the sets by default.
        level: Coverage probability.

    Returns:
        The interval.

    Raises:
        ConfigError: If there are fewer than two sets.
        DataError: If a score is not finite.
    """
    found = _checked(scores, level)
    num = len(found)
    half = student_quantile((1 + level) / 2, num - 1) * float(found.std()) / num**0.5
    centre = float(found.mean()) if value is None else value
    without = tuple(((found.sum() - found) / (num - 1)).tolist())
    return Interval(centre - half, centre + half, level, f"Student's t, {num} disjoint sets", without)


def jackknife(value: float, without: Tensor | Sequence[float], level: float = LEVEL) -> Interval:
    """Delete-a-group jackknife interval of a smooth score that is biased in small sets, such as a Frechet distance.

    Each of G replicates is the score of all samples without one of G disjoint groups of equal size. So it is
    subsampling without replacement, m = n (G - 1) / G out of n, and the deviations are rescaled by
    ``sqrt(m / (n - m))``. The interval is of the expected score **of this many samples**: the bias of a finite set
    stays in it. References (real images, their statistics) count as fixed.

    Args:
        value: The score of all samples.
        without: The score without each group, shape ``(G,)``.
        level: Coverage probability.

    Returns:
        The interval, symmetric around ``value``.

    Raises:
        ConfigError: If there are fewer than two groups.
        DataError: If a score is not finite.

    References:
        Shao & Wu 1989, "A general theory for jackknife variance estimation", Annals of Statistics 17(3); Kott 2001,
        "The delete-a-group jackknife", Journal of Official Statistics 17(4).
    """
    found = _checked(without, level)
    num = len(found)
    error = float((found - found.mean()).square().sum() * (num - 1) / num) ** 0.5
    half = student_quantile((1 + level) / 2, num - 1) * error
    method = f"delete-a-group jackknife, {num} groups"
    return Interval(value - half, value + half, level, method, tuple(found.tolist()))


def difference(first: tuple[float, Interval], second: tuple[float, Interval], same_samples: bool = False) -> Interval:
    """Interval of the difference of a score between two models, second minus first.

    On the same samples (seeds, labels, held-out data) a delete-a-group jackknife of the differences, group by group:
    what both models have in common, such as an easy class, cancels. Else, or where all groups agree, both intervals are
    combined in quadrature, end by end, so that it holds for asymmetric ones too. For scores that go up and down
    together, as those against the same real data do, that is too wide: it rather misses a difference than makes one.

    Args:
        first: Score of a model and its interval.
        second: Score of the other.
        same_samples: Whether sample i of both has the same seed and condition.

    Returns:
        The interval; of the lower of the two levels.

    References:
        Newcombe 1998, "Interval estimation for the difference between independent proportions", Statistics in Medicine
        17 (square-and-add); Zou & Donner 2008, Statistics in Medicine 27, for other scores.
    """
    (value1, one), (value2, two) = first, second
    change, level = value2 - value1, min(one.level, two.level)
    if same_samples and len(one.replicates) == len(two.replicates) > 1:
        changes = [b - a for a, b in zip(one.replicates, two.replicates, strict=True)]
        # Groups that do not differ at all, such as shares of none, do not say how far the models may differ.
        if max(changes) > min(changes):
            paired = jackknife(change, changes, level)
            return replace(paired, method=f"same seeds, {paired.method}")
    below = math.hypot(value2 - two.low, one.high - value1)
    above = math.hypot(two.high - value2, value1 - one.low)
    return Interval(change - below, change + above, level, "independent intervals in quadrature")


def groups_of(num_samples: int, num_groups: int = NUM_GROUPS) -> list[slice]:
    """Split samples into the groups of a jackknife, or into disjoint sets: consecutive slices of equal size, up to 1.

    Consecutive, since the classes of balanced samples repeat (0, 1, ..., K - 1, 0, ...): each group holds all alike.

    Args:
        num_samples: Number of samples.
        num_groups: Number of groups; fewer if there were less than two samples in each.

    Returns:
        Slices of the samples; none if there are not enough for two groups.
    """
    num = min(num_groups, num_samples // 2)
    if num < 2:
        return []
    edges = [round(i * num_samples / num) for i in range(num + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def student_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t distribution, to 1e-3 from 4 degrees of freedom on and exactly for 1 and 2.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, at least 1.

    Returns:
        The quantile.

    References:
        Abramowitz & Stegun 1964, "Handbook of mathematical functions", 26.7.5.
    """
    if degrees == 1:
        return float(torch.tan(torch.tensor(torch.pi * (probability - 0.5), dtype=torch.float64)))
    if degrees == 2:
        return (2 * probability - 1) / (2 * probability * (1 - probability)) ** 0.5
    x = NormalDist().inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def _without_groups(rows: Tensor) -> Iterator[Tensor]:
    """Yield the samples without each group, shape ``(N - group, ...)``; nothing if there are too few for groups."""
    for group in groups_of(len(rows)):
        yield torch.cat([rows[: group.start], rows[group.stop :]])


def _checked(values: Tensor | Sequence[float], level: float) -> Tensor:
    """Convert values to float64 on the CPU and validate them and the level."""
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1; got {level}")
    rows = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if rows.ndim < 1 or len(rows) < 2:
        raise ConfigError(f"an interval needs at least two values; got shape {tuple(rows.shape)}")
    if not rows.isfinite().all():
        raise DataError(f"an interval of values of which {int((~rows.isfinite()).sum())} are NaN or infinity")
    return rows
