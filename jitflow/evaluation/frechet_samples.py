"""Frechet distances of a set of samples to one reference: interval, bias of a finite set, extrapolation to infinity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.frechet import Statistics, factor_covariance, frechet_distance
from jitflow.evaluation.intervals import Interval, groups_of, jackknife
from jitflow.evaluation.moments import Moments

MANY = 50_000
"""Number of images of published scores."""
_NUM_POINTS = 15
_FEWEST_SHARE = 0.1
# Rows per update of the moments, which bounds memory.
_CHUNK = 1000


@dataclass(frozen=True)
class FrechetSample:
    """Frechet distance of samples to a reference, and without each of some groups of the samples.

    Attributes:
        value: The distance.
        without: The distance without each group, shape ``(G,)``, float64; empty if there are too few samples.
        num: Number of samples.
        dim: Dimension of their features.
    """

    value: float
    without: Tensor
    num: int
    dim: int

    @property
    def interval(self) -> Interval | None:
        """Delete-a-group jackknife interval of the distance at this number of samples."""
        return jackknife(self.value, self.without) if len(self.without) > 1 else None

    @property
    def bias(self) -> float | None:
        """How much too large the distance is because there are few samples, by the jackknife; about ``c / num``.

        None if the covariance is singular, where the bias is no longer proportional to ``1 / num``.
        """
        groups = len(self.without)
        if groups < 2 or self.num <= self.dim:
            return None
        return float((groups - 1) * (self.without.mean() - self.value))


class FrechetReference:
    """Reference of Frechet distances, whose covariance is factored once.

    Args:
        statistics: Mean and covariance of real images.
    """

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics
        self._factor = factor_covariance(statistics.sigma, what="the reference covariance")
        self._trace = float(statistics.sigma.trace())

    def sample(self, features: Tensor) -> FrechetSample:
        """Compute the distance of samples, and without each group of them.

        Args:
            features: Shape ``(N, D)``, float32, N at least 2.

        Returns:
            The distances.

        Raises:
            DataError: If features hold NaN or are all equal.
        """
        total = moments_of(features)
        if not bool(total.covariance.diagonal().gt(0).any()):
            raise DataError("all generated images have the same features; the model has collapsed or never learned")
        value = frechet_distance(total.mean, total.covariance, *self.statistics)
        groups = groups_of(len(features))
        parts = [self._look_at(features[group]) for group in groups]
        # Both sides of a difference by the same formula, since their rounding differs.
        offset = value - self._distance(parts) if parts else 0.0
        without = [self._distance(parts[:i] + parts[i + 1 :]) + offset for i in range(len(parts))]
        return FrechetSample(value, torch.tensor(without, dtype=torch.float64), len(features), features.shape[1])

    def at_infinity(self, features: Tensor, *, seed: int = 0) -> float:
        """Extrapolate the distance to infinitely many samples: it is linear in 1 / N.

        Args:
            features: Shape ``(N, D)``, float32; many more than D.
            seed: Seed of the random subsets: 15 numbers of samples from a tenth to all.

        Returns:
            The distance without the bias of a finite set; it may be slightly negative.

        Raises:
            ConfigError: If there are fewer than 20 samples.

        References:
            Chong & Forsyth 2020, "Effectively unbiased FID and Inception Score and where to find them",
            arXiv:1911.07023: for 50,000 images the same 15 numbers, from 5,000 on.
        """
        if len(features) < 2 / _FEWEST_SHARE:
            raise ConfigError(f"extrapolation needs at least {round(2 / _FEWEST_SHARE)} images; got {len(features)}")
        return self._extrapolate(features, seed)

    def infinity_without_groups(self, features: Tensor, *, seed: int = 0) -> Tensor:
        """Extrapolate without each group of samples, for a jackknife; arguments as in :meth:`at_infinity`."""
        rest = [torch.cat([features[: g.start], features[g.stop :]]) for g in groups_of(len(features))]
        return torch.tensor([self._extrapolate(some, seed) for some in rest], dtype=torch.float64)

    def _extrapolate(self, features: Tensor, seed: int) -> float:
        draws = torch.Generator().manual_seed(seed)
        counts = np.linspace(_FEWEST_SHARE * len(features), len(features), _NUM_POINTS).round().astype(int)
        chosen = [torch.randperm(len(features), generator=draws)[: int(count)] for count in counts]
        distances = [self._distance([self._look_at(features[index])]) for index in chosen]
        return float(np.polyfit(1 / counts, distances, 1)[1])

    def _look_at(self, features: Tensor) -> _Projected:
        """Collect what the distance depends on: mean and spread, and the moments along the reference's axes."""
        rows = features.double() - self.statistics.mu
        along = moments_of(rows, self._factor)
        mean = rows.mean(dim=0)
        return _Projected(along, mean, float((rows - mean).square().sum()))

    def _distance(self, parts: Sequence[_Projected]) -> float:
        """Frechet distance of the samples of some parts, to about 1e-8 of the covariance, by one set of eigenvalues."""
        total = _merge([part.along for part in parts])
        shares = [part.along.count / total.count for part in parts]
        mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
        assert isinstance(mean, Tensor)
        between = [part.along.count * (part.mean - mean).square().sum() for part in parts]
        trace = float(sum(part.scatter for part in parts) + sum(between)) / (total.count - 1)
        values = torch.linalg.eigvalsh(total.covariance)
        # Eigenvalues below the rounding error of the largest carry no information.
        kept = values[values > values[-1] * len(values) * torch.finfo(torch.float64).eps]
        return float(mean @ mean) + trace + self._trace - 2 * float(kept.sqrt().sum())


@dataclass(frozen=True)
class _Projected:
    """Some samples as the distance sees them.

    Attributes:
        along: Moments along the axes of the reference, each scaled by its standard deviation.
        mean: Difference of the means, shape ``(D,)``.
        scatter: Sum of the squared deviations from the mean.
    """

    along: Moments
    mean: Tensor
    scatter: float


def moments_of(features: Tensor, factor: Tensor | None = None) -> Moments:
    """Return the moments of features, shape ``(N, D)``, or of their products with a matrix ``(D, R)``."""
    moments = Moments(features.shape[1] if factor is None else factor.shape[1])
    for part in features.split(_CHUNK):
        moments.update(part if factor is None else part @ factor)
    return moments


def _merge(parts: Sequence[Moments]) -> Moments:
    total = Moments(parts[0].dim)
    for part in parts:
        total.merge(part)
    return total
