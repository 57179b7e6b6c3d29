"""Precision and recall: how many generated images look real, and how much of the real images is covered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jitflow.errors import ConfigError
from jitflow.evaluation.kid import check_features, float64_device
from jitflow.evaluation.nearest import squared_distances

TILE_ROWS = 2048
"""Side of the tile of the distance matrix in memory at once; 32 MiB in float64."""
# Relative to a squared norm: far above float64 rounding, far below real differences of features.
_ROUNDING = 1e-12


class ManifoldScores(NamedTuple):
    """Precision, recall, density and coverage of two sets of features.

    Attributes:
        precision: Share of the generated images that lie in the neighbourhood of a real one.
        recall: Share of the real images that lie in the neighbourhood of a generated one.
        density: Real neighbourhoods around a generated image, on average, over ``k``; unlike precision it is not
            inflated by a single real outlier, and it may exceed 1.
        coverage: Share of the real images with a generated one in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


class Memberships(NamedTuple):
    """What each image contributes to precision, recall, density and coverage, which are the means.

    Attributes:
        precision: Whether a generated image lies in the neighbourhood of a real one, shape ``(M,)``.
        recall: Whether a real image lies in the neighbourhood of a generated one, shape ``(N,)``.
        density: Real neighbourhoods around a generated image, over ``k``, shape ``(M,)``.
        coverage: Whether a real image has a generated one in its neighbourhood, shape ``(N,)``.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def precision_and_recall(features_real: Tensor, features_generated: Tensor, *, k: int = 3) -> ManifoldScores:
    """Compute improved precision and recall, with density and coverage from the same distances.

    Args:
        features_real: As in :func:`memberships`.
        features_generated: As in :func:`memberships`.
        k: Rank of the nearest neighbour that bounds a neighbourhood, for all four.

    Returns:
        The four scores.

    Raises:
        ConfigError: As :func:`memberships`.
        DataError: As :func:`memberships`.
    """
    found = memberships(features_real, features_generated, k=k, k_density=k)
    return ManifoldScores(*(float(values.double().mean()) for values in found))


def memberships(features_real: Tensor, features_generated: Tensor, *, k: int = 3, k_density: int = 5) -> Memberships:
    """Find which images lie in which neighbourhoods, for precision, recall, density and coverage.

    The neighbourhood of an image is the closed ball that reaches to its k-th nearest neighbour in its own set. Memory
    beyond the features is constant. Scores depend on the number of images: compare only sets of the same sizes (the
    paper uses 50,000 and 50,000).

    Everything is computed in float64: in the usual float32, a training's TF32 or bfloat16 setting would silently
    change the scores, and rounding would swamp the distances of nearly equal images.

    Args:
        features_real: Features of the real images, shape ``(N, D)``.
        features_generated: Features of the generated images, shape ``(M, D)``.
        k: Rank of the nearest neighbour that bounds a neighbourhood, for precision and recall; 3 in the paper.
        k_density: The same for density and coverage; 5 in their paper.

    Returns:
        A value of each image for each score.

    Raises:
        ConfigError: If the shapes do not fit, or a set has too few images for ``k``.
        DataError: If a row holds NaN or infinity.

    References:
        Kynkaanniemi et al. 2019, arXiv:1904.06991, section 2; Naeem et al. 2020, arXiv:2002.09797, section 3.
    """
    check_features(features_real, features_generated)
    smaller = min(len(features_real), len(features_generated))
    for rank in (k, k_density):
        if not 1 <= rank < smaller:
            raise ConfigError(f"k must be at least 1 and less than the number of images ({smaller}); got {rank}")
    device = float64_device(features_real)
    real, generated = features_real.to(device), features_generated.to(device)
    # Distances lose digits to the vectors' length, so vectors are centred first.
    centre = real.mean(dim=0, dtype=torch.float64)
    near, wide = _squared_radii(real, centre, (k, k_density))
    (radii_generated,) = _squared_radii(generated, centre, (k,))
    is_real = torch.zeros(len(generated), dtype=torch.bool, device=device)
    times_in_real = torch.zeros(len(generated), dtype=torch.int64, device=device)
    in_generated = torch.zeros(len(real), dtype=torch.bool, device=device)
    covered = torch.zeros_like(in_generated)
    for rows, columns, distances in _tiles(real, generated, centre):
        is_real[columns] |= (distances <= near[rows, None]).any(dim=0)
        in_wide = distances <= wide[rows, None]
        times_in_real[columns] += in_wide.sum(dim=0)
        covered[rows] |= in_wide.any(dim=1)
        in_generated[rows] |= (distances <= radii_generated[columns]).any(dim=1)
    return Memberships(is_real, in_generated, times_in_real.double() / k_density, covered)


def _squared_radii(features: Tensor, centre: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Squared distances to neighbours of some ranks, ``(N,)`` each, widened so that rounding excludes no edge."""
    most = max(ranks)
    nearest = torch.full((len(features), most + 1), torch.inf, dtype=torch.float64, device=features.device)
    for rows, _, distances in _tiles(features, features, centre):
        # One more, since every image is its own nearest neighbour.
        nearest[rows] = torch.cat([nearest[rows], distances], dim=1).topk(most + 1, largest=False, sorted=True).values
    # Rounding in |a - b|^2 grows with |a|^2 and |b|^2, and on the edge |b| is at most |a| plus the radius.
    norms = torch.cat([(part - centre).square().sum(dim=1) for part in features.split(TILE_ROWS)])
    return [nearest[:, k] + _ROUNDING * (norms + nearest[:, k]) for k in ranks]


def _tiles(a: Tensor, b: Tensor, centre: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield pairwise squared distances in blocks: slice of ``a``, slice of ``b``, float64 distances ``(R, C)``."""
    for i in range(0, len(a), TILE_ROWS):
        x = a[i : i + TILE_ROWS] - centre
        for j in range(0, len(b), TILE_ROWS):
            y = b[j : j + TILE_ROWS] - centre
            yield slice(i, i + len(x)), slice(j, j + len(y)), squared_distances(x, y)
