"""Description of a data set of spectrogram arrays, which its owner writes beside it: ``spectrograms.yaml``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.arrays.axes import ArrayAxes
from jitflow.apps.microdoppler.arrays.colour_maps import COLOUR_MAPS
from jitflow.apps.microdoppler.stated_values import (
    Check,
    check_stated,
    stated_flag,
    stated_name,
    stated_pair,
    stated_positive,
    stated_text,
)
from jitflow.errors import ConfigError
from jitflow.io.yaml_file import read_yaml

DESCRIPTION_NAME = "spectrograms.yaml"
AUTO, NONE = "auto", "none"
NAMES, NUMBERS = "names", "numbers"


@dataclass(frozen=True)
class ArrayDescription:
    """What the numbers of a data set of spectrograms mean. What is not stated is read from the files or measured.

    Attributes:
        array: Name of the spectrogram in files with several arrays (``.npz``, HDF5, ``.mat``).
        range_db: Lowest and highest level that the model distinguishes, dB; values outside are clipped. By default
            that of the training data.
        relative_to_peak: Subtract the highest value of each sample first. This destroys the magnitude; generated files
            then are relative to their peak too.
        first_row: Whether the first row of an array is the ``lowest`` velocity or the ``highest``; by default as the
            file's own axis says, else the lowest. Pictures always have the highest velocity on top.
        fit: ``resize`` spectrograms to the model's images, or ``pad`` them with the lowest level.
        colour_map: Colour map of pictures, ``auto`` to recognise it, or ``none`` to keep pictures as they are.
        duration_sec: Time from the left edge to the right one, s.
        velocity_m_s: Radial velocity at the lower and the upper edge, m/s.
        frequency_hz: Doppler frequency at these edges, Hz.
        carrier_hz: Carrier frequency of the radar, Hz.
        label: Column of the manifest with the number of the user (or class); by default ``user`` or ``subject``.
        group: Column of the manifest whose values training and validation may not share, such as ``session`` or
            ``subject``; by default ``session``, else ``recording``; ``none`` splits single files.
        conditions: Columns of the manifest that the model is conditioned on besides the user: a list of names, or by
            name ``names``, ``numbers``, the names, or the smallest and largest number.
    """

    array: str | None = None
    range_db: tuple[float, float] | None = None
    relative_to_peak: bool = False
    first_row: str = AUTO
    fit: str = "resize"
    colour_map: str = AUTO
    duration_sec: float | None = None
    velocity_m_s: tuple[float, float] | None = None
    frequency_hz: tuple[float, float] | None = None
    carrier_hz: float | None = None
    label: str | None = None
    group: str | None = None
    conditions: dict[str, Any] | None = None

    @property
    def axes(self) -> ArrayAxes:
        """The axes as far as they are stated."""
        return ArrayAxes(self.duration_sec, self.velocity_m_s, self.frequency_hz, self.carrier_hz).completed()

    def to_record(self) -> dict[str, Any]:
        """Return the description of the spectrograms as plain values, for JSON."""
        values = dataclasses.asdict(self)
        if self.conditions is None:
            # Data without conditions keep the fingerprint that they had.
            del values["conditions"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def read_description(folder: Path) -> ArrayDescription | None:
    """Read the description of a data set of spectrograms; None if its folder has none.

    Args:
        folder: Folder of the data set.

    Raises:
        ConfigError: If a name is unknown or a value invalid; names the file.
    """
    path = folder / DESCRIPTION_NAME
    if not path.is_file():
        return None
    values = read_yaml(path, what="description")
    return description_from({} if values is None else values, path)


def description_from(values: Any, source: object) -> ArrayDescription:
    """Build the description of spectrograms from plain values, such as those of a file or a record.

    Args:
        values: Fields of :class:`ArrayDescription` by name.
        source: Where they are from, for messages.

    Raises:
        ConfigError: If a name is unknown or a value invalid.
    """
    checked = check_stated(values, _CHECKS, source, example="range_db: [-60, 0]")
    return ArrayDescription(**checked)


def _conditions(name: str, value: Any) -> dict[str, Any]:
    columns = (
        dict.fromkeys(value, AUTO) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
    )
    if not isinstance(columns, dict) or not columns or not all(isinstance(column, str) for column in columns):
        raise ConfigError(f"{name} must be a list of columns, such as [activity, speed]; got {value!r}")
    for column, kind in columns.items():
        if kind not in (AUTO, NAMES, NUMBERS) and not isinstance(kind, list):
            raise ConfigError(f"{name}.{column} must be {NAMES}, {NUMBERS}, or a list of either; got {kind!r}")
    return columns


_CHECKS: dict[str, Check] = {
    "array": stated_text,
    "range_db": stated_pair,
    "relative_to_peak": stated_flag,
    "first_row": stated_name(AUTO, "lowest", "highest"),
    "fit": stated_name("resize", "pad"),
    "colour_map": stated_name(AUTO, NONE, *COLOUR_MAPS),
    "duration_sec": stated_positive,
    "velocity_m_s": stated_pair,
    "frequency_hz": stated_pair,
    "carrier_hz": stated_positive,
    "label": stated_text,
    "group": stated_text,
    "conditions": _conditions,
}
