"""Diversity of generated images: distances between those of one user.

Distances are root-mean-square differences between the components of two vectors (grey levels if the vectors are
pixels). They are computed in float64, tile by tile, so memory beyond the vectors is constant.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.intervals import groups_of
from jitflow.evaluation.kid import check_features, float64_device
from jitflow.evaluation.nearest import squared_distances

TILE_ROWS = 256
"""Rows of each side of a tile of distances; with 64 x 64 colour pixels in float64 25 MiB each."""


class Diversity(NamedTuple):
    """Mean distances between images of one user.

    Attributes:
        means: Mean over all pairs of images of each user, shape ``(K,)``, float64.
        without_groups: The same without each group of images, shape ``(G, K)``, for an interval; no row where a user
            would have less than two images left.
    """

    means: Tensor
    without_groups: Tensor


def mean_pairwise_distance(vectors: Tensor) -> float:
    """Compute the mean distance over all pairs of different vectors.

    Args:
        vectors: Shape ``(N, D)``, N at least 2.

    Returns:
        The mean; 0 if all rows are equal.

    Raises:
        ConfigError: If the shape is wrong.
        DataError: If there are fewer than two rows, or one holds NaN or infinity.
    """
    check_features(vectors, vectors)
    num = len(vectors)
    if num < 2:
        raise DataError(f"diversity needs at least 2 images; got {num}")
    # The distance of an image to itself is 0.
    return float(_sums_of_groups(vectors, torch.zeros(num, dtype=torch.int64), 1)) / (num * (num - 1))


def diversity_per_user(vectors: Tensor, users: Tensor, num_users: int) -> Diversity:
    """Compute the mean pairwise distance between each user's images, also without each group of images.

    The groups are equal parts of every user's images, in their order.

    Args:
        vectors: Shape ``(N, D)``: pixels, or features of a classifier.
        users: User of each vector, shape ``(N,)``, in ``[0, num_users)``.
        num_users: Number of users K.

    Returns:
        The means.

    Raises:
        ConfigError: If the shapes are inconsistent.
        DataError: If a user has fewer than 2 images.
    """
    if users.shape != (len(vectors),):
        raise ConfigError(f"users must have shape ({len(vectors)},); got {tuple(users.shape)}")
    check_features(vectors, vectors)
    counts = torch.bincount(users, minlength=num_users)
    if int(counts.min()) < 2:
        user = int(counts.argmin())
        raise DataError(
            f"diversity needs at least 2 images of each user; there are {int(counts[user])} with label {user}"
        )
    num_groups = len(groups_of(int(counts.min())))
    means, without = [], []
    for user in range(num_users):
        own = vectors[users == user]
        num = len(own)
        groups = torch.zeros(num, dtype=torch.int64)
        for index, group in enumerate(groups_of(num, num_groups)):
            groups[group] = index
        sums = _sums_of_groups(own, groups, max(1, num_groups))
        means.append(sums.sum() / (num * (num - 1)))
        left = num - torch.bincount(groups, minlength=num_groups)
        without.append((sums.sum() - 2 * sums.sum(dim=1) + sums.diagonal()) / (left * (left - 1)))
    enough = num_groups > 1
    return Diversity(torch.stack(means), torch.stack(without, dim=1)[: num_groups if enough else 0])


def _sums_of_groups(vectors: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Sum the distances between the images of every two groups, shape ``(G, G)``, float64, on the CPU."""
    device = float64_device(vectors)
    vectors = vectors.to(device)
    member = torch.nn.functional.one_hot(groups, num_groups).to(device, torch.float64)
    sums = member.new_zeros(num_groups, num_groups)
    # Distances lose digits to the vectors' length, so vectors are centred first.
    centre = torch.stack([part.double().sum(dim=0) for part in vectors.split(TILE_ROWS)]).sum(dim=0) / len(vectors)
    for i in range(0, len(vectors), TILE_ROWS):
        x = vectors[i : i + TILE_ROWS].double() - centre
        for j in range(0, len(vectors), TILE_ROWS):
            y = vectors[j : j + TILE_ROWS].double() - centre
            distances = (squared_distances(x, y) / vectors.shape[1]).sqrt_()
            sums += member[i : i + TILE_ROWS].T @ distances @ member[j : j + TILE_ROWS]
    return sums.cpu()
