"""One spectrogram of a data set, read from any format as an array of levels with its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.arrays.axes import AXIS_NAMES, ArrayAxes, read_axes
from jitflow.apps.microdoppler.arrays.colour_maps import levels_of_colours, recognise_colour_map
from jitflow.apps.microdoppler.arrays.description import AUTO, DESCRIPTION_NAME, ArrayDescription
from jitflow.data.image_file import open_image
from jitflow.errors import DataError
from jitflow.io.array_formats import ARRAY_SUFFIXES, NamedArrays, is_array_tiff, open_array_file

SPECTROGRAM = "spectrogram"
"""Name of the spectrogram in the files that are written, preferred among several arrays of a file that is read."""
CHANNELS = (1, 2)
"""Numbers of channels that a spectrogram may have."""
_SHOWN = 5


@dataclass(frozen=True)
class SpectrogramArray:
    """A spectrogram as it is in its file, turned so that the highest velocity is on top.

    Attributes:
        values: Shape ``(C, F, T)``, float32, C 1 or 2: levels in dB, or in ``[0, 1]`` from a picture; minus infinity
            (the logarithm of nothing) may occur, NaN does not.
        axes: The axes that the file stores.
        lowest_first: Whether the file's first row is the lowest velocity.
        is_picture: Whether the values are levels of a coloured picture.
    """

    values: np.ndarray
    axes: ArrayAxes
    lowest_first: bool
    is_picture: bool


def read_spectrogram(path: Path, description: ArrayDescription) -> SpectrogramArray:
    """Read a spectrogram from a file of arrays, or from a picture in a known colour map.

    Args:
        path: The file.
        description: What its numbers mean.

    Returns:
        The spectrogram.

    Raises:
        DataError: If the file is damaged, has no or several arrays, or one that is no spectrogram: complex, of another
            shape, with NaN or infinity; or a picture whose colours are of no known map. The message names it.
        ConfigError: If the package that reads the format is not installed.
    """
    if path.suffix.lower() not in ARRAY_SUFFIXES and not is_array_tiff(path):
        return _read_picture(path, description)
    with open_array_file(path) as arrays:
        name = _choose(path, arrays, description.array)
        values = arrays.read(name)
        beside = _read_beside(arrays, name)
    values = _to_channels(path, name, values)
    axes, rising = read_axes(beside, *values.shape[1:])
    if description.first_row != AUTO:
        rising = description.first_row == "lowest"
    lowest_first = rising is not False
    return SpectrogramArray(values[:, ::-1] if lowest_first else values, axes, lowest_first, is_picture=False)


def _read_picture(path: Path, description: ArrayDescription) -> SpectrogramArray:
    picture = np.asarray(open_image(str(path), channels=3))
    name = description.colour_map if description.colour_map != AUTO else recognise_colour_map(picture)
    if name is None:
        raise DataError(
            f"{path}: its colours are of no known colour map, so they are no levels; state `colour_map` in "
            f"{DESCRIPTION_NAME}, or crop axes and margins away"
        )
    return SpectrogramArray(levels_of_colours(picture, name)[None], ArrayAxes(), lowest_first=False, is_picture=True)


def _choose(path: Path, arrays: NamedArrays, wanted: str | None) -> str:
    """Choose the array that is the spectrogram."""
    entries = arrays.entries
    if list(entries) == [""]:
        return ""
    if wanted is not None:
        if wanted not in entries:
            raise DataError(f"{path} has no array {wanted!r}; it holds {_listed(entries)}")
        return wanted
    found = [
        name
        for name, (shape, dtype) in entries.items()
        if dtype.kind in "iufc" and _depth(shape) >= 2 and _last(name) not in AXIS_NAMES
    ]
    preferred = [name for name in found if _last(name) == SPECTROGRAM]
    if len(preferred) == 1:
        return preferred[0]
    if len(found) != 1:
        problem = "holds several arrays" if found else "holds no array of numbers with two dimensions"
        raise DataError(
            f"{path} {problem} ({_listed(found or entries)}); name the spectrogram with `array: NAME` in "
            f"{DESCRIPTION_NAME}"
        )
    return found[0]


def _read_beside(arrays: NamedArrays, chosen: str) -> dict[str, np.ndarray]:
    """Read the axes that lie beside the spectrogram: vectors of numbers under known names."""
    return {
        _last(name): arrays.read(name)
        for name, (shape, dtype) in arrays.entries.items()
        if name != chosen and _last(name) in AXIS_NAMES and dtype.kind in "iuf" and _depth(shape) < 2
    }


def _to_channels(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Return a file's array as ``(C, F, T)`` float32, checked."""
    what = f"{path}: the array {name!r}" if name else f"{path}: its array"
    if values.dtype.kind == "c":
        raise DataError(f"{what} is complex; store its level in dB instead, such as 20 * log10(abs(x))")
    if values.dtype.kind not in "iuf":
        raise DataError(f"{what} holds {values.dtype}, not numbers; store levels in dB")
    shape = values.shape
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and shape[0] not in CHANNELS and shape[-1] in CHANNELS:
        values = np.moveaxis(values, -1, 0)
    if values.ndim != 3 or values.shape[0] not in CHANNELS or min(values.shape[1:]) < 2:
        raise DataError(
            f"{what} has the shape {shape}; a sample is one file with (frequencies, times), or with one or two "
            "channels before or after them"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if np.isnan(values).any() or np.isposinf(values).any() or np.isneginf(values).all():
        raise DataError(f"{what} holds NaN or infinity; mend or remove the file")
    return values


def _depth(shape: tuple[int, ...]) -> int:
    """Dimensions of more than one element: MATLAB stores vectors as matrices."""
    return sum(side > 1 for side in shape) if math.prod(shape) else 0


def _last(name: str) -> str:
    """Name of an array without the groups that it is in."""
    return name.rpartition("/")[2].lower()


def _listed(names: Mapping[str, Any] | list[str]) -> str:
    shown = list(names)
    return (", ".join(shown[:_SHOWN]) + (" ..." if len(shown) > _SHOWN else "")) or "nothing"
