"""Diversity of generated images, and their distances to the training images.

Distances are root-mean-square differences between the components of two vectors (grey levels if the vectors are
pixels). They are computed in float64, tile by tile, so memory beyond the vectors is constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.features import check_images
from jitflow.evaluation.kid import check_features, float64_device

TILE_ROWS = 256
"""Rows of each side of a tile of distances; with 64 x 64 colour pixels in float64 25 MiB each."""
CHUNK_IMAGES = 256
"""Images averaged over areas at once, which bounds memory."""
# Quantile of held-out images' distances to the training images that serves as the copy threshold.
_COPY_QUANTILE = 0.01


class CopyScores(NamedTuple):
    """Distances of generated images to the training images, and the share of copies.

    Attributes:
        median_generated: Median over the generated images of the distance to the nearest training image.
        median_held_out: The same for held-out real images.
        threshold: Distance below which an image counts as a copy: the 1st percentile of the held-out images' distances,
            close to their minimum for fewer than 100 images.
        share_copies: Share of generated images below the threshold; about 0.01 by chance.
    """

    median_generated: float
    median_held_out: float
    threshold: float
    share_copies: float


def pixel_vectors(images: Tensor, *, side_px: int = 64) -> Tensor:
    """Convert images to vectors: rounded means of each channel over ``side_px x side_px`` areas.

    Args:
        images: Shape ``(N, C, H, W)``, uint8, C 1 or 3.
        side_px: Areas along each side.

    Returns:
        Vectors, shape ``(N, C * side_px**2)``, uint8, on the CPU.

    Raises:
        ConfigError: If the images' shape or type is wrong.
    """
    check_images(images)
    vectors = torch.empty(len(images), images.shape[1] * side_px**2, dtype=torch.uint8)
    for first in range(0, len(images), CHUNK_IMAGES):
        part = adaptive_avg_pool2d(images[first : first + CHUNK_IMAGES].cpu().float(), side_px)
        vectors[first : first + CHUNK_IMAGES] = part.flatten(1).round().to(torch.uint8)
    return vectors


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
    return sum(float(distances.sum()) for _, distances in _tiles(vectors, vectors)) / (num * (num - 1))


def diversity_per_user(vectors: Tensor, users: Tensor, num_users: int) -> Tensor:
    """Compute the mean pairwise distance between each user's images.

    Args:
        vectors: Shape ``(N, D)``: pixels, or features of a classifier.
        users: User of each vector, shape ``(N,)``, in ``[0, num_users)``.
        num_users: Number of users K.

    Returns:
        Means, shape ``(K,)``, float64.

    Raises:
        ConfigError: If the shapes are inconsistent.
        DataError: If a user has fewer than 2 images.
    """
    if users.shape != (len(vectors),):
        raise ConfigError(f"users must have shape ({len(vectors)},); got {tuple(users.shape)}")
    means = []
    for user in range(num_users):
        own = vectors[users == user]
        if len(own) < 2:
            raise DataError(f"diversity needs at least 2 images of each user; there are {len(own)} with label {user}")
        means.append(mean_pairwise_distance(own))
    return torch.tensor(means, dtype=torch.float64)


def nearest_distances(vectors: Tensor, reference: Tensor) -> Tensor:
    """Compute the distance of each vector to the nearest one of a reference set.

    Args:
        vectors: Shape ``(N, D)``.
        reference: Shape ``(M, D)``.

    Returns:
        Distances, shape ``(N,)``, float64.

    Raises:
        ConfigError: If the shapes are inconsistent.
        DataError: If a row holds NaN or infinity.
    """
    check_features(vectors, reference)
    nearest = torch.full((len(vectors),), torch.inf, dtype=torch.float64, device=float64_device(vectors))
    for rows, distances in _tiles(vectors, reference):
        nearest[rows] = torch.minimum(nearest[rows], distances.min(dim=1).values)
    return nearest


def copy_scores(generated: Tensor, held_out: Tensor, train: Tensor) -> CopyScores:
    """Compare generated and held-out images by their distances to the training images.

    Samples of a model that generalises are as near as unseen real images; samples that repeat training images are
    nearer. A copy blurred by a lossy codec has the distance of the blur, and a copy shifted in time is not detected.

    Args:
        generated: Vectors of generated images, shape ``(N, D)``.
        held_out: Vectors of held-out real images, shape ``(M, D)``.
        train: Vectors of the training images, shape ``(L, D)``.

    Returns:
        The scores.

    Raises:
        ConfigError: If the shapes are inconsistent.
        DataError: If a row holds NaN or infinity.
    """
    near_generated, near_held_out = nearest_distances(generated, train), nearest_distances(held_out, train)
    threshold = torch.quantile(near_held_out, _COPY_QUANTILE)
    return CopyScores(
        median_generated=float(near_generated.quantile(0.5)),
        median_held_out=float(near_held_out.quantile(0.5)),
        threshold=float(threshold),
        share_copies=float((near_generated < threshold).double().mean()),
    )


def _tiles(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield all distances in tiles: rows of ``a``, and their distances ``(R, C)`` to some rows of ``b``."""
    device = float64_device(a)
    a, b = a.to(device), b.to(device)
    # Distances lose digits to the vectors' length, so vectors are centred first.
    centre = torch.stack([part.double().sum(dim=0) for part in b.split(TILE_ROWS)]).sum(dim=0) / len(b)
    for i in range(0, len(a), TILE_ROWS):
        x = a[i : i + TILE_ROWS].double() - centre
        x_norms = x.square().sum(dim=1, keepdim=True)
        for j in range(0, len(b), TILE_ROWS):
            y = b[j : j + TILE_ROWS].double() - centre
            squares = torch.addmm(x_norms + y.square().sum(dim=1), x, y.T, alpha=-2).clamp_(min=0)
            yield slice(i, i + len(x)), (squares / a.shape[1]).sqrt_()
