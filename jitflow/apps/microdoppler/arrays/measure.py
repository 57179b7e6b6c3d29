"""Measure the range of levels and the axes of a data set of spectrogram arrays."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jitflow.apps.microdoppler.arrays.axes import ArrayAxes
from jitflow.apps.microdoppler.arrays.colour_maps import COLOUR_MAPS
from jitflow.apps.microdoppler.arrays.description import DESCRIPTION_NAME, ArrayDescription
from jitflow.apps.microdoppler.arrays.sample import SpectrogramArray, read_spectrogram
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.errors import DataError
from jitflow.io.progress import meter

log = logging.getLogger(__name__)

# The lower end of the range: rarer values are mostly logarithms of almost nothing.
_RARE_SHARE = 0.001
# Values looked at in a file; the highest is looked for among all.
_VALUES = 4096
# Linear power spans decades above its median and is never negative; decibels do not.
_LINEAR_RATIO = 1000.0
_DEFAULT_MAP = "viridis"


def measure_scale(paths: Sequence[Path], description: ArrayDescription) -> ArrayScale:
    """Find the scale of a data set: what is stated, and the rest from its training files.

    Without a stated range the highest value is its upper end, and the value that one in a thousand lies below its
    lower end; what is outside is clipped.

    Args:
        paths: Training files, at least one.
        description: What is stated.

    Returns:
        The scale.

    Raises:
        DataError: If a file is damaged, the files differ in channels or axes, or all values are equal.
    """
    first = read_spectrogram(paths[0], description)
    values: list[np.ndarray] = []
    highest = -np.inf
    with meter("measuring the range of the arrays", len(paths), unit="files") as progress:
        for i, path in enumerate(paths):
            sample = read_spectrogram(path, description)
            _check_alike(path, sample, paths[0], first)
            levels = sample.values
            if description.relative_to_peak:
                levels = levels - levels.max(axis=(1, 2), keepdims=True)
            highest = max(highest, float(levels.max()))
            finite = levels[np.isfinite(levels)]
            values.append(finite[:: max(1, finite.size // _VALUES)])
            progress.update(i + 1)
    seen = np.concatenate(values) if values else np.empty(0, np.float32)
    scale = ArrayScale(
        range_db=_range(paths[0], seen, highest, first, description),
        unit="level" if first.is_picture and description.range_db is None else "dB",
        num_channels=len(first.values),
        size=(first.values.shape[1], first.values.shape[2]),
        lowest_first=first.lowest_first,
        colour_map=description.colour_map if description.colour_map in COLOUR_MAPS else _DEFAULT_MAP,
        axes=description.axes.or_else(first.axes).completed(),
        stated=description,
    )
    _log_scale(scale, seen, first)
    return scale


def _range(
    path: Path, seen: np.ndarray, highest: float, first: SpectrogramArray, description: ArrayDescription
) -> tuple[float, float]:
    if description.range_db is not None:
        return description.range_db
    if first.is_picture:
        return 0.0, 1.0
    lowest = float(np.quantile(seen, _RARE_SHARE)) if seen.size else np.nan
    low, high = (float(f"{end:.6g}") for end in (lowest, highest))
    if not low < high:
        raise DataError(f"{path.parent}: all values are equal or none is finite; these are no spectrograms")
    return low, high


def _check_alike(path: Path, sample: SpectrogramArray, first_path: Path, first: SpectrogramArray) -> None:
    if len(sample.values) != len(first.values) or sample.is_picture != first.is_picture:
        raise DataError(f"{path} and {first_path} differ in channels or kind; keep one kind in a data set")
    if not sample.axes.is_near(first.axes):
        raise DataError(f"{path} and {first_path} have different axes; cut all samples to the same time and velocities")


def _log_scale(scale: ArrayScale, seen: np.ndarray, first: SpectrogramArray) -> None:
    low, high = scale.range_db
    rows, columns = scale.size
    origin = "stated" if scale.stated.range_db is not None else "measured"
    log.info("arrays of %d x %d values, range %s (%s)", rows, columns, scale.range_text(), origin)
    if scale.stated.relative_to_peak:
        log.warning("relative_to_peak scales each sample by itself: how strong one echo is against another is lost")
    outside = float(((seen < low) | (seen > high)).mean()) if seen.size and not first.is_picture else 0.0
    if scale.stated.range_db is not None and outside > 0.2:
        log.warning("%.0f %% of the values lie outside range_db %s and are clipped", 100 * outside, [low, high])
    if (
        not first.is_picture
        and seen.size
        and seen.min() >= 0
        and high > _LINEAR_RATIO * max(float(np.median(seen)), 1e-30)
    ):
        log.warning(
            "the values look like linear power, not dB: most of the picture would be black; store 10 * log10 of them"
        )
    if scale.axes == ArrayAxes():
        log.info("time and velocity are unknown; state duration_sec and velocity_m_s in %s", DESCRIPTION_NAME)
