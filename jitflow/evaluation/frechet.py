"""Frechet distance between two Gaussians, and files of their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from jitflow.errors import ConfigError, MissingFileError
from jitflow.io.files import atomic_path, user_path
from jitflow.io.npz_file import npz_names, read_npz

# Some files were written in float32, whose rounding reaches about 1e-6 of the largest entry.
_TOLERANCE = 1e-5


class Statistics(NamedTuple):
    """Mean and covariance of the features of a set of images.

    Attributes:
        mu: Mean, shape ``(D,)``, float64.
        sigma: Covariance, shape ``(D, D)``, float64.
    """

    mu: Tensor
    sigma: Tensor


def frechet_distance(
    mu1: Tensor | ArrayLike, sigma1: Tensor | ArrayLike, mu2: Tensor | ArrayLike, sigma2: Tensor | ArrayLike
) -> float:
    """Squared Frechet distance: ``|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2))``.

    With ``sigma = A A^T`` from the symmetric eigenvalues of each covariance, the trace of the square root is the
    sum of the singular values of ``A1^T A2``. So no complex number occurs, and no square root of rounding noise is
    taken: a singular covariance is handled like a regular one.

    Args:
        mu1: Mean, shape ``(D,)``.
        sigma1: Covariance, shape ``(D, D)``; a slightly negative eigenvalue counts as 0.
        mu2: Mean of the other, shape ``(D,)``.
        sigma2: Covariance of the other, shape ``(D, D)``.

    Returns:
        The distance, at least 0; the FID if the features are those of Inception.

    Raises:
        ConfigError: If the dimensions differ, or an argument is not finite or not a covariance.

    References:
        Dowson & Landau 1982, "The Frechet distance between multivariate normal distributions"; Heusel et al.
        2017, arXiv:1706.08500, equation 6.
    """
    first = check_statistics(mu1, sigma1, what="the first statistics")
    second = check_statistics(mu2, sigma2, what="the second statistics")
    if len(first.mu) != len(second.mu):
        raise ConfigError(
            f"statistics of {len(first.mu)} and {len(second.mu)} dimensions cannot be compared; "
            "both must come from the same feature extractor"
        )
    factor1 = factor_covariance(first.sigma, what="the first covariance")
    factor2 = factor_covariance(second.sigma, what="the second covariance")
    overlap = torch.linalg.svdvals(factor1.T @ factor2).sum()
    difference = first.mu - second.mu
    distance = difference @ difference + first.sigma.trace() + second.sigma.trace() - 2 * overlap
    return max(0.0, float(distance))


def check_statistics(mu: Tensor | ArrayLike, sigma: Tensor | ArrayLike, *, what: str = "the statistics") -> Statistics:
    """Convert a mean and a covariance to float64 on the CPU and validate them.

    Args:
        mu: Mean, shape ``(D,)``.
        sigma: Covariance, shape ``(D, D)``.
        what: Name for the error message, such as a file.

    Returns:
        The statistics, ``sigma`` exactly symmetric.

    Raises:
        ConfigError: If the shapes are inconsistent, a number is not finite, or ``sigma`` is not symmetric.
    """
    mean, covariance = (torch.as_tensor(value).detach().to("cpu", torch.float64) for value in (mu, sigma))
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise ConfigError(
            f"{what}: mu must have shape (D,) and sigma (D, D); got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    for name, value in (("mu", mean), ("sigma", covariance)):
        wrong = int((~value.isfinite()).sum())
        if wrong:
            raise ConfigError(f"{what}: {name} holds NaN or infinity in {wrong} of {value.numel()} places")
    if (covariance - covariance.T).abs().max() > _TOLERANCE * covariance.abs().max():
        raise ConfigError(f"{what}: sigma is not symmetric, so it is no covariance")
    return Statistics(mean, (covariance + covariance.T) / 2)


def load_statistics(path: str | Path, *, prefix: str = "") -> Statistics:
    """Read the statistics (mean and covariance) of a reference set.

    Args:
        path: An ``.npz`` file with ``mu`` ``(D,)`` and ``sigma`` ``(D, D)``, the keys of the JiT release and of
            most FID tools; other keys are ignored.
        prefix: Before the keys, such as ``dinov2/`` in a file of several extractors.

    Returns:
        The statistics.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If it is damaged, lacks a key, or holds anything but numbers of these shapes.
    """
    what = f"statistics file {path}"
    keys = f"{prefix}mu", f"{prefix}sigma"
    arrays = read_npz(path, keys, what="statistics file")
    missing = [key for key in keys if key not in arrays]
    if missing:
        content = ", ".join(npz_names(path)) or "nothing"
        raise ConfigError(f"{what} lacks {' and '.join(missing)}; it holds {content}")
    mu, sigma = (arrays[key] for key in keys)
    for name, array in zip(keys, (mu, sigma), strict=True):
        if not np.issubdtype(array.dtype, np.floating):
            raise ConfigError(f"{what}: {name} must hold real numbers; it has type {array.dtype}")
    return check_statistics(mu.astype(np.float64), sigma.astype(np.float64), what=what)


def save_statistics(
    path: str | Path,
    mu: Tensor | ArrayLike,
    sigma: Tensor | ArrayLike,
    *,
    features: Tensor | None = None,
    further: Mapping[str, Tensor] | None = None,
    **record: str | int | float | bool,
) -> None:
    """Write the statistics of a reference set atomically.

    Args:
        path: The file; other FID tools expect the suffix ``.npz``.
        mu: Mean, shape ``(D,)``.
        sigma: Covariance, shape ``(D, D)``.
        features: Features to store too, shape ``(N, D)``, for scores of single images.
        further: Further arrays by name, such as the statistics of another extractor.
        record: How they were made, each a string or number: extractor, its checksum, number of images, crop.

    Raises:
        ConfigError: If they are not valid statistics, or a record is neither string nor number.
    """
    statistics = check_statistics(mu, sigma)
    for name, value in record.items():
        if not isinstance(value, (str, int, float)):
            raise ConfigError(f"the record {name} must be a string or a number; got {type(value).__name__}")
    arrays: dict[str, Any] = {"mu": statistics.mu.numpy(), "sigma": statistics.sigma.numpy(), **record}
    if features is not None:
        arrays["features"] = features.float().cpu().numpy()
    arrays.update({name: array.cpu().numpy() for name, array in (further or {}).items()})
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def find_statistics(img_size: int, num_classes: int = 1000, folder: str | Path = "fid_stats") -> Path:
    """Find the reference statistics by the JiT release's file names.

    Args:
        img_size: Side of the images in pixels.
        num_classes: Number of classes; for the error message, since the release's files describe ImageNet.
        folder: Folder to search, relative to the working directory.

    Returns:
        The path of ``jit_in{img_size}_stats.npz``.

    Raises:
        MissingFileError: If it is not there; the message says how to get or make it.
    """
    path = user_path(folder) / f"jit_in{img_size}_stats.npz"
    if path.is_file():
        return path
    remedies = []
    if img_size in (256, 512) and num_classes == 1000:
        remedies.append("copy it from fid_stats/ of the JiT release (github.com/LTH14/JiT)")
    remedies.append(f"make it of your own images: jitflow stats FOLDER --img_size {img_size} --out {path}")
    raise MissingFileError(
        f"no reference statistics for FID: {path.name} is not in {path.parent.resolve()}; {', or '.join(remedies)}"
    )


def factor_covariance(sigma: Tensor, *, what: str = "the covariance") -> Tensor:
    """Factor a covariance as ``A A^T = sigma`` by its eigenvalues.

    Args:
        sigma: Covariance, shape ``(D, D)``, float64, symmetric.
        what: Name for the error message.

    Returns:
        The factor, shape ``(D, R)``, where R is the rank up to rounding.

    Raises:
        ConfigError: If an eigenvalue is more negative than rounding explains.
    """
    values, vectors = torch.linalg.eigh(sigma)
    largest = float(values[-1].clamp(min=0))
    if float(values[0]) < -_TOLERANCE * largest:
        raise ConfigError(
            f"{what} has a negative eigenvalue ({float(values[0]):.3g}, the largest is {float(values[-1]):.3g}), "
            "so it is no covariance; was it saved in half precision?"
        )
    # Eigenvalues below the rounding error of the largest carry no information and would only cost time.
    kept = values > largest * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()
