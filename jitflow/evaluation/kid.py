"""Kernel Inception Distance (KID): maximum mean discrepancy of two sets of features under a polynomial kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jitflow.errors import ConfigError, DataError

BLOCK_ENTRIES = 1 << 24
"""Entries of the kernel matrix in memory at once; 128 MiB in float64."""


class KernelDistance(NamedTuple):
    """Squared maximum mean discrepancy over random subsets.

    Attributes:
        mean: Mean over the subsets; it may be slightly negative, since its expectation is 0 for equal sets.
        std: Standard deviation over the subsets (divisor: their number).
    """

    mean: float
    std: float


def kernel_inception_distance(
    features_a: Tensor,
    features_b: Tensor,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    seed: int = 0,
) -> KernelDistance:
    """Compute the KID: mean of the unbiased squared discrepancy over pairs of random subsets.

    The defaults are those of the paper and of torch-fidelity. Subsets are drawn from ``seed`` on the CPU, so the score
    does not depend on the device. torch-fidelity draws other subsets, so the two differ by chance unless one subset
    holds all images.

    Args:
        features_a: Features of one set, shape ``(N, D)``.
        features_b: Features of the other, shape ``(M, D)``.
        num_subsets: Number of pairs of subsets, each drawn without replacement.
        subset_size: Images in a subset, from 2 to the size of the smaller set.
        degree: Degree of the polynomial kernel.
        gamma: Factor of the scalar product; None is ``1 / D``.
        coef0: Constant added to it.
        seed: Seed of the subsets.

    Returns:
        Mean and standard deviation, computed in float64 on the device of ``features_a``.

    Raises:
        ConfigError: If the shapes do not fit or a number is out of range.
        DataError: If a row holds NaN or infinity.

    References:
        Binkowski et al. 2018, arXiv:1801.01401, section 4.
    """
    check_features(features_a, features_b)
    smaller = min(len(features_a), len(features_b))
    if subset_size > smaller:
        raise ConfigError(
            f"subset_size {subset_size} is larger than the smaller set ({smaller} images); pass "
            f"subset_size={smaller} or less, or give more images"
        )
    if subset_size < 2:
        raise ConfigError(f"subset_size must be at least 2; got {subset_size}")
    if num_subsets < 1:
        raise ConfigError(f"num_subsets must be at least 1; got {num_subsets}")
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(num_subsets):
        a, b = (
            features[torch.randperm(len(features), generator=generator)[:subset_size].to(features.device)]
            for features in (features_a, features_b)
        )
        distances.append(squared_discrepancy(a, b, degree=degree, gamma=gamma, coef0=coef0))
    over_subsets = torch.tensor(distances, dtype=torch.float64)
    return KernelDistance(float(over_subsets.mean()), float(over_subsets.std(correction=0)))


def squared_discrepancy(
    x: Tensor, y: Tensor, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> float:
    """Estimate the squared maximum mean discrepancy without bias, for the kernel ``(gamma <x, y> + coef0)^degree``.

    Args:
        x: Features, shape ``(N, D)``, N at least 2.
        y: Features, shape ``(M, D)``, M at least 2.
        degree: Degree of the kernel.
        gamma: Factor of the scalar product; None is ``1 / D``.
        coef0: Constant added to it.

    Returns:
        The estimate, in float64.

    References:
        Gretton et al. 2012, "A kernel two-sample test", equation 3.
    """
    x, y = (features.to(float64_device(x), torch.float64) for features in (x, y))
    gamma = 1 / x.shape[1] if gamma is None else gamma

    def kernel_sum(a: Tensor, b: Tensor) -> Tensor:
        rows = max(1, BLOCK_ENTRIES // len(b))
        parts = [((block @ b.T) * gamma + coef0).pow_(degree).sum() for block in a.split(rows)]
        return torch.stack(parts).sum()

    def mean_of_pairs(a: Tensor) -> Tensor:
        # No image is compared with itself, which makes the estimate unbiased.
        itself = (a.square().sum(dim=1) * gamma + coef0).pow(degree).sum()
        return (kernel_sum(a, a) - itself) / (len(a) * (len(a) - 1))

    return float(mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def check_features(features_a: Tensor, features_b: Tensor) -> None:
    """Raise ConfigError or DataError if two sets of features cannot be compared.

    Args:
        features_a: Features of one set, shape ``(N, D)``.
        features_b: Features of the other, shape ``(M, D)``.

    Raises:
        ConfigError: If the shapes do not fit.
        DataError: If a row holds NaN or infinity.
    """
    for features in (features_a, features_b):
        if features.ndim != 2 or not features.numel():
            raise ConfigError(f"features must have shape (N, D); got {tuple(features.shape)}")
        wrong = int((~features.isfinite().all(dim=1)).sum())
        if wrong:
            raise DataError(f"{wrong} of {len(features)} feature vectors hold NaN or infinity")
    if features_a.shape[1] != features_b.shape[1]:
        raise ConfigError(
            f"features of {features_a.shape[1]} and {features_b.shape[1]} dimensions cannot be compared; "
            "both must come from the same feature extractor"
        )


def float64_device(features: Tensor) -> torch.device:
    """Return the device of the features, or the CPU if that device lacks float64 (Apple's)."""
    return torch.device("cpu") if features.device.type == "mps" else features.device
