"""Files of reference statistics under one extractor or several.

The statistics of the first extractor have the plain names that all FID tools read (``mu``, ``sigma``); those of a
further one have its name before them (``dinov2/mu``). Each has its own ``extractor``, ``extractor_sha256`` and
``preprocessing``; number of images, size, channels, crop and the checksum of the pixels are common to all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jitflow.errors import ConfigError
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.frechet import Statistics, check_statistics, load_statistics, save_statistics
from jitflow.io.npz_file import npz_names, read_npz

_WHAT = "statistics file"


@dataclass(frozen=True)
class SpaceStatistics:
    """Statistics of a set of images under one extractor.

    Attributes:
        extractor: The extractor.
        statistics: Mean and covariance.
        features: Features to keep, shape ``(N, D)``, for scores of single images; None for none.
    """

    extractor: FeatureExtractor
    statistics: Statistics
    features: Tensor | None = None


def write_statistics(
    path: str | Path, spaces: Mapping[str, SpaceStatistics], record: Mapping[str, str | int | float]
) -> None:
    """Write the statistics of a set of images under several extractors atomically.

    Args:
        path: The ``.npz``.
        spaces: Statistics by short name of the extractor; the first is what other tools read.
        record: What is common to all: number of images, size, channels, crop, checksum of the pixels.

    Raises:
        ConfigError: If something is not a covariance.
    """
    own: dict[str, str | int | float] = dict(record)
    others: dict[str, Tensor] = {}
    first, *_ = spaces.values()
    for name, space in spaces.items():
        prefix = "" if space is first else f"{name}/"
        own[f"{prefix}extractor"] = space.extractor.name
        own[f"{prefix}extractor_sha256"] = space.extractor.checksum or ""
        own[f"{prefix}preprocessing"] = json.dumps(space.extractor.preprocessing)
        if prefix:
            mu, sigma = check_statistics(*space.statistics, what=f"the statistics of {name}")
            others |= {f"{prefix}mu": mu, f"{prefix}sigma": sigma}
            others |= {} if space.features is None else {f"{prefix}features": space.features.float()}
    save_statistics(path, *first.statistics, features=first.features, further=others, **own)


def read_statistics(
    path: Path, extractor: FeatureExtractor, made_for: Mapping[str, Any]
) -> tuple[Statistics, int | None, Tensor | None]:
    """Read the statistics of one extractor, of our own files or of other FID tools'.

    Args:
        path: The ``.npz``.
        extractor: The extractor.
        made_for: Further values that must be the same where the file records them: ``img_size``, ``channels``.

    Returns:
        Mean and covariance; number of images and kept features, shape ``(N, D)``, where the file has them.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If the file is damaged, or was made with another extractor, size or number of channels.
    """
    before = _prefix(path, extractor)
    statistics = load_statistics(path, prefix=before)
    if len(statistics.mu) != extractor.dim:
        raise ConfigError(
            f"{path} holds statistics of {len(statistics.mu)} dimensions, {extractor.name} makes {extractor.dim}; "
            "they were made with another extractor"
        )
    # Only this library's files record how they were made; others cannot be checked.
    wanted = {
        f"{before}extractor": extractor.name,
        f"{before}extractor_sha256": extractor.checksum or "",
        f"{before}preprocessing": json.dumps(extractor.preprocessing),
        **made_for,
    }
    arrays = read_npz(path, [*wanted, "num_images", f"{before}features"], what=_WHAT)
    try:
        for name, value in wanted.items():
            if name in arrays and arrays[name].item() != value:
                raise ConfigError(
                    f"{path} was made with {name} {arrays[name].item()}, this is an evaluation with {value}"
                )
        count = int(arrays["num_images"]) if "num_images" in arrays else None
        kept = arrays.get(f"{before}features")
        return statistics, count, None if kept is None else torch.from_numpy(kept.astype(np.float32))
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} does not say in single values how it was made ({error}); make it again") from None


def _prefix(path: Path, extractor: FeatureExtractor) -> str:
    """Find the statistics of an extractor in a file: what stands before their names."""
    prefixes = ["", *(name.removesuffix("mu") for name in npz_names(path, what=_WHAT) if name.endswith("/mu"))]
    made = read_npz(path, [f"{prefix}extractor" for prefix in prefixes], what=_WHAT)
    found = {str(made[key]): prefix for prefix in prefixes if (key := f"{prefix}extractor") in made}
    if len(prefixes) > 1 and extractor.name not in found:
        raise ConfigError(f"{path} holds statistics of {', '.join(found)}, but none of {extractor.name}")
    return found.get(extractor.name, "")
