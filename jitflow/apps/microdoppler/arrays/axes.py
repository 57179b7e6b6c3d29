"""Axes of spectrogram arrays: the time, velocity and Doppler frequency of their edges, and the carrier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.gait.echo import SPEED_OF_LIGHT_M_S
from jitflow.apps.microdoppler.spectrogram_axes import SpectrogramAxes

# Names under which laboratories store axes beside a spectrogram, in lower case.
_TIME = ("time_sec", "time_s", "time", "times", "t")
_VELOCITY = ("velocity_m_s", "velocity", "velocities", "v")
_FREQUENCY = ("frequency_hz", "doppler_hz", "frequency", "doppler", "freq", "f")
_CARRIER = ("carrier_hz", "carrier", "carrier_frequency", "fc")
AXIS_NAMES = frozenset((*_TIME, *_VELOCITY, *_FREQUENCY, *_CARRIER))
"""Names of arrays that are axes, not spectrograms."""
# Largest departure from an even spacing, in steps.
_UNEVEN = 0.05


@dataclass(frozen=True)
class ArrayAxes:
    """Axes of spectrogram arrays; None is unknown.

    Attributes:
        duration_sec: Time from the first edge to the last one.
        velocity_m_s: Radial velocity at the slowest and at the fastest edge, m/s; positive is towards the radar.
        frequency_hz: Doppler frequency at these edges, Hz.
        carrier_hz: Carrier frequency of the radar, Hz.
    """

    duration_sec: float | None = None
    velocity_m_s: tuple[float, float] | None = None
    frequency_hz: tuple[float, float] | None = None
    carrier_hz: float | None = None

    def completed(self) -> ArrayAxes:
        """Return the axes with velocity derived from frequency or the reverse, where the carrier is known."""
        if self.carrier_hz is None:
            return self
        hz_per_m_s = 2 * self.carrier_hz / SPEED_OF_LIGHT_M_S
        velocity, frequency = self.velocity_m_s, self.frequency_hz
        if velocity is None and frequency is not None:
            velocity = (frequency[0] / hz_per_m_s, frequency[1] / hz_per_m_s)
        if frequency is None and velocity is not None:
            frequency = (velocity[0] * hz_per_m_s, velocity[1] * hz_per_m_s)
        return replace(self, velocity_m_s=velocity, frequency_hz=frequency)

    def or_else(self, other: ArrayAxes) -> ArrayAxes:
        """Return the axes with what is unknown taken from others."""
        names = ("duration_sec", "velocity_m_s", "frequency_hz", "carrier_hz")
        return ArrayAxes(*(getattr(self, n) if getattr(self, n) is not None else getattr(other, n) for n in names))

    def of_figure(self) -> SpectrogramAxes | None:
        """Return the axes of a figure; None unless time and velocity are known."""
        if self.duration_sec is None or self.velocity_m_s is None:
            return None
        return SpectrogramAxes(self.duration_sec, *self.velocity_m_s)

    def arrays(self, num_rows: int, num_columns: int, *, lowest_first: bool) -> dict[str, np.ndarray]:
        """Return the axes as arrays to be stored beside a spectrogram: the centre of every row and column.

        Args:
            num_rows: Rows of the spectrogram, F.
            num_columns: Columns, T.
            lowest_first: Whether the first row is the lowest velocity.

        Returns:
            ``time_sec`` (T,), ``velocity_m_s`` (F,), ``frequency_hz`` (F,), ``carrier_hz`` (), where known; float64.
        """
        found: dict[str, np.ndarray] = {}
        if self.duration_sec is not None:
            found["time_sec"] = _centres((0.0, self.duration_sec), num_columns)
        for name, edges in (("velocity_m_s", self.velocity_m_s), ("frequency_hz", self.frequency_hz)):
            if edges is not None:
                found[name] = _centres(edges if lowest_first else edges[::-1], num_rows)
        if self.carrier_hz is not None:
            found["carrier_hz"] = np.asarray(self.carrier_hz)
        return found

    def is_near(self, other: ArrayAxes) -> bool:
        """Whether the axes of two files agree, to a hundredth of their spans, in what both know."""
        pairs = [
            ((0.0, a), (0.0, b)) if isinstance(a, float) else (a, b)
            for a, b in zip(self._values(), other._values(), strict=True)
            if a is not None and b is not None
        ]
        return all(np.allclose(a, b, rtol=0, atol=0.01 * abs(b[1] - b[0])) for a, b in pairs)

    def _values(self) -> tuple[Any, ...]:
        return self.duration_sec, self.velocity_m_s, self.frequency_hz, self.carrier_hz


def read_axes(arrays: Mapping[str, np.ndarray], num_rows: int, num_columns: int) -> tuple[ArrayAxes, bool | None]:
    """Read the axes that a file stores beside its spectrogram.

    Args:
        arrays: Small arrays of the file by name in lower case.
        num_rows: Rows of the spectrogram, F.
        num_columns: Columns, T.

    Returns:
        The axes, None where a file has none of that length or unevenly spaced ones; whether the first row is the
        lowest, None if unknown.
    """
    time = _first(arrays, _TIME, num_columns)
    velocity, frequency = _first(arrays, _VELOCITY, num_rows), _first(arrays, _FREQUENCY, num_rows)
    carrier = _first(arrays, _CARRIER, 1)
    duration = None if time is None else abs(time[-1] - time[0]) * num_columns / max(1, num_columns - 1)
    rising = [bool(axis[-1] > axis[0]) for axis in (velocity, frequency) if axis is not None and len(axis) > 1]
    axes = ArrayAxes(
        duration if duration else None,
        None if velocity is None else _edges(velocity),
        None if frequency is None else _edges(frequency),
        float(carrier[0]) if carrier is not None and carrier[0] > 0 else None,
    )
    return axes.completed(), rising[0] if rising else None


def _first(arrays: Mapping[str, np.ndarray], names: tuple[str, ...], length: int) -> np.ndarray | None:
    """Return the first array of one of the names that has the length and is evenly spaced."""
    for name in names:
        if name in arrays and arrays[name].size == length:
            values = arrays[name].astype(np.float64).reshape(-1)
            steps = np.diff(values)
            # Less, not equal: an axis whose values are all equal is a placeholder.
            if np.isfinite(values).all() and (
                length < 2 or (abs(steps - steps.mean()) < _UNEVEN * abs(steps.mean())).all()
            ):
                return values
    return None


def _edges(centres: np.ndarray) -> tuple[float, float]:
    low, high = float(centres.min()), float(centres.max())
    half = (high - low) / max(1, len(centres) - 1) / 2
    return low - half, high + half


def _centres(edges: tuple[float, float], num: int) -> np.ndarray:
    return np.asarray(edges[0] + (np.arange(num) + 0.5) * (edges[1] - edges[0]) / num)
