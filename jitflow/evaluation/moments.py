"""Streaming mean and covariance of features, in any order and over any number of processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jitflow.errors import ConfigError, DataError


class Moments:
    """Running mean and covariance of features in float64; the features themselves are not kept.

    Each batch is centred on its own mean before squaring, which avoids cancellation when the mean is large compared
    with the standard deviation.

    Args:
        dim: Length D of a feature vector.
        device: Device of the sums; it must support float64.

    References:
        Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    def __init__(self, dim: int, device: torch.device | str | None = None) -> None:
        if dim < 1:
            raise ConfigError(f"dim must be at least 1; got {dim}")
        self.dim = dim
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64, device=device)
        # Sum of the outer products of deviations from the mean.
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @property
    def mean(self) -> Tensor:
        """Mean of the features, shape ``(D,)``, float64."""
        self._require_count(1)
        return self._mean.clone()

    @property
    def covariance(self) -> Tensor:
        """Covariance of the features with the divisor ``count - 1`` of ``numpy.cov``, shape ``(D, D)``, float64."""
        self._require_count(2)
        return self._scatter / (self.count - 1)

    def update(self, features: Tensor) -> None:
        """Add a batch of features; invalid features change nothing.

        Args:
            features: Shape ``(N, D)``; N may be 0.

        Raises:
            ConfigError: If the shape is another.
            DataError: If a row holds NaN or infinity.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ConfigError(f"features must have shape (N, {self.dim}); got {tuple(features.shape)}")
        features = features.detach().to(self._mean.device, torch.float64)
        if not len(features):
            return
        wrong = int((~features.isfinite().all(dim=1)).sum())
        if wrong:
            raise DataError(
                f"{wrong} of {len(features)} feature vectors hold NaN or infinity; look for images that a "
                "diverged model or a damaged file produced"
            )
        mean = features.mean(dim=0)
        deviation = features - mean
        self._add(len(features), mean, deviation.T @ deviation)

    def merge(self, other: Moments) -> None:
        """Merge the moments of other features into these.

        Args:
            other: Moments of the same dimension; it stays as it is.

        Raises:
            ConfigError: If the dimension is another.
        """
        if other.dim != self.dim:
            raise ConfigError(f"moments of {other.dim} and {self.dim} dimensions cannot be merged")
        if other.count:
            device = self._mean.device
            self._add(other.count, other._mean.to(device), other._scatter.to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the moments: ``count`` (0-d, int64), ``mean`` ``(D,)``, ``scatter`` ``(D, D)``, float64."""
        return {"count": torch.tensor(self.count), "mean": self._mean.clone(), "scatter": self._scatter.clone()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Moments:
        """Rebuild from :meth:`state_dict`, on the device of its ``mean``."""
        mean, scatter = state["mean"], state["scatter"]
        if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise ConfigError(f"mean {tuple(mean.shape)} and scatter {tuple(scatter.shape)} do not belong together")
        moments = cls(len(mean), mean.device)
        moments.count = int(state["count"])
        moments._mean.copy_(mean)
        moments._scatter.copy_(scatter)
        return moments

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        shift = mean - self._mean
        self._mean += shift * (count / total)
        self._scatter += scatter
        self._scatter += torch.outer(shift, shift).mul_(self.count * (count / total))
        self.count = total

    def _require_count(self, number: int) -> None:
        if self.count < number:
            raise DataError(f"this needs the features of at least {number} image(s); {self.count} were given")
