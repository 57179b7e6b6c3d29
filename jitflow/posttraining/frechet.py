"""Frechet distance to a fixed Gaussian as a differentiable function of the moments of features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jitflow.evaluation.frechet import Statistics, factor_covariance

# Share of the largest eigenvalue of the reference's covariance, squared, below which an eigenvalue is rounding noise.
_FLOOR = 1e-12


class Moments(NamedTuple):
    """First and second moment of features.

    Attributes:
        mean: Mean ``E f``, shape ``(D,)``, float64.
        second: Uncentred second moment ``E f f^T``, shape ``(D, D)``, float64.
    """

    mean: Tensor
    second: Tensor


class FrechetTarget:
    """Squared Frechet distance of features to those of real images.

    Args:
        reference: Mean and covariance of the real images' features.
    """

    def __init__(self, reference: Statistics) -> None:
        self._mu = reference.mu
        self._trace = float(reference.sigma.trace())
        factor = factor_covariance(reference.sigma, what="the reference covariance")
        values, vectors = torch.linalg.eigh(factor @ factor.T)
        # S = sigma^(1/2), of which S Sigma S is symmetric and has the eigenvalues of sigma Sigma.
        self._root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self._floor = _FLOOR * float(values[-1]) ** 2

    def to(self, device: torch.device) -> FrechetTarget:
        """Move the reference to a device, in place, and return itself."""
        self._mu, self._root = self._mu.to(device), self._root.to(device)
        return self

    def distance(self, moments: Moments) -> Tensor:
        """Compute the distance of a population, 0-d, float64, at least 0 up to rounding.

        ``|mu - mu_ref|^2 + tr(Sigma) + tr(Sigma_ref) - 2 sum sqrt(eig(S Sigma S))`` with ``S = Sigma_ref^(1/2)`` and
        ``Sigma = E f f^T - mu mu^T``. Eigenvalues below rounding noise count as 0, and get no gradient.

        Args:
            moments: Moments of the population, on the device of the reference.

        References:
            Dowson & Landau 1982, "The Frechet distance between multivariate normal distributions".
        """
        sigma = moments.second - torch.outer(moments.mean, moments.mean)
        product = self._root @ sigma @ self._root
        values = torch.linalg.eigvalsh((product + product.T) / 2)
        kept = values > self._floor
        overlap = torch.where(kept, values, 1.0).sqrt() * kept
        difference = moments.mean - self._mu
        return difference @ difference + sigma.trace() + self._trace - 2 * overlap.sum()

    def log_distance(self, moments: Moments) -> tuple[Tensor, Moments]:
        """Compute the logarithm of the distance, and its gradient in the moments.

        The gradient is that of the distance divided by its own detached value, so that all feature spaces count alike.

        Args:
            moments: Moments of the population.

        Returns:
            The logarithm, 0-d, float64, and the gradients ``g_mu`` ``(D,)`` and ``G_M2`` ``(D, D)``, symmetric.
        """
        with torch.enable_grad():
            leaves = Moments(*(moment.detach().requires_grad_() for moment in moments))
            value = self.distance(leaves).clamp(min=torch.finfo(torch.float64).tiny).log()
            mean, second = torch.autograd.grad(value, leaves)
        return value.detach(), Moments(mean, (second + second.T) / 2)


def coefficients(gradient: Moments, features: Tensor) -> Tensor:
    """Return the derivative of a function of the moments in each feature vector, times their number.

    For ``mu = mean(f)`` and ``M2 = mean(f f^T)`` it is ``g_mu + 2 G_M2 f``.

    Args:
        gradient: Gradients in both moments.
        features: Shape ``(N, D)``.

    Returns:
        Shape ``(N, D)``, float64.
    """
    return gradient.mean + 2 * features.detach().double() @ gradient.second
