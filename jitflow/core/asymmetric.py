"""Asymmetric prediction (AsymFlow): velocity in a few directions of a patch, data in all others.

With ``P = Q Q^T`` the projection of a patch onto ``r`` principal directions of clean patches, the network's output
stands for ``u = P x0 - x1``. Inside the subspace it is the negative velocity ``P (x0 - x1)``; across it, it is the
negative data, which ``x_t`` turns into a velocity: ``(I - P) (x_t + u) / (1 - t)`` is ``(I - P) (x0 - x1)``.

References:
    LakonLab 2026, arXiv:2605.12964.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from jitflow.core.path import expand_time
from jitflow.errors import ConfigError


def patches_of(x: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, in the order (row, column, channel) of a network's tokens.

    Args:
        x: Images, shape ``(B, C, rows * P, columns * P)``.
        patch_size: P.

    Returns:
        Patches, shape ``(B, rows * columns, P * P * C)``.
    """
    cut = x.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def images_of(patches: Tensor, shape: torch.Size, patch_size: int) -> Tensor:
    """Reassemble the patches of :func:`patches_of`.

    Args:
        patches: Shape ``(B, N, P * P * C)``.
        shape: Shape of the images, ``(B, C, H, W)``.
        patch_size: P.

    Returns:
        Images, shape ``(B, C, H, W)``.
    """
    _, _, height, width = shape
    cut = patches.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, (height // patch_size, width // patch_size))
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(shape)


def project(x: Tensor, basis: Tensor, patch_size: int) -> Tensor:
    """Project every patch of images onto a subspace.

    Args:
        x: Images, shape ``(B, C, H, W)``.
        basis: Orthonormal directions ``Q``, shape ``(P * P * C, r)``.
        patch_size: P.

    Returns:
        Images, shape ``(B, C, H, W)``.
    """
    patches, directions = patches_of(x, patch_size), basis.to(x)
    # What is left across the directions is divided by small 1 - t, which would magnify the errors of half precision.
    with torch.autocast(x.device.type, enabled=False):
        return images_of(patches @ directions @ directions.mT, x.shape, patch_size)


def asymmetric_target(x0: Tensor, x1: Tensor, basis: Tensor, patch_size: int) -> Tensor:
    """Return what an ideal network outputs, ``P x0 - x1``; arguments as in :func:`project`, x0 noise, x1 data."""
    return project(x0, basis, patch_size) - x1


def velocity_from_asymmetric(
    output: Tensor, x_t: Tensor, t: Tensor, basis: Tensor, patch_size: int, *, t_eps: float = 0.05
) -> Tensor:
    """Convert an asymmetric prediction into a velocity: ``-(P u + (I - P) (x_t + u) / max(1 - t, t_eps))``.

    Args:
        output: The network's output ``u``, shape ``(B, C, H, W)``.
        x_t: Path sample, shape ``(B, C, H, W)``.
        t: Time, shape ``(B,)``; 0 is noise, 1 is data.
        basis: Orthonormal directions, shape ``(P * P * C, r)``.
        patch_size: P.
        t_eps: Smallest ``1 - t`` that is divided by.

    Returns:
        Velocity, shape ``(B, C, H, W)``.
    """
    total = x_t + output
    across = total - project(total, basis, patch_size)
    return -(project(output, basis, patch_size) + across / (1 - expand_time(t, x_t)).clamp_min(t_eps))


def principal_directions(images: Iterable[Tensor], patch_size: int, rank: int) -> Tensor:
    """Compute the directions that hold most of the squares of clean patches, not centred.

    Args:
        images: Batches of images in the model space, ``(B, C, H, W)`` each.
        patch_size: P.
        rank: Number of directions.

    Returns:
        Orthonormal directions, shape ``(P * P * C, rank)``, float32, the largest first.

    Raises:
        ConfigError: If there are no images, or a patch has fewer numbers.
    """
    gram: Tensor | None = None
    for batch in images:
        patches = patches_of(batch, patch_size).flatten(0, 1).double()
        square = patches.mT @ patches
        gram = square if gram is None else gram + square
    if gram is None:
        raise ConfigError("prediction asym needs clean images for its subspace, and there are none")
    if not 0 < rank < len(gram):
        raise ConfigError(f"asym_rank must lie between 1 and {len(gram) - 1} for these patches; got {rank}")
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :rank]
    # The sign of an eigenvector is the library's choice; with the largest number positive it is the same everywhere.
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return (vectors * largest.sign()).float()
