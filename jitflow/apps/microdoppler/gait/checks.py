"""Validation of the gait simulator's arguments, with one-line errors."""

from __future__ import annotations

import math

from jitflow.errors import ConfigError


def check_range(name: str, value: float, low: float, high: float, *, unit: str = "") -> None:
    """Raise ConfigError unless a simulation parameter lies in ``[low, high]``; NaN never does."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie in [{low:g}, {high:g}]{unit and ' ' + unit}; got {value}")


def check_positive(name: str, value: float, *, unit: str = "") -> None:
    """Raise ConfigError unless a simulation parameter is positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be positive{unit and ', in ' + unit}; got {value}")


def check_count(name: str, value: int, *, least: int = 1, most: float = math.inf) -> None:
    """Raise ConfigError unless a simulation parameter is a whole number of at least ``least``, at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most:,}; got {value}")


def check_pair(name: str, value: tuple[float, float], low: float, high: float, *, unit: str = "") -> None:
    """Raise ConfigError unless a simulation parameter is a pair (smallest, largest) within ``[low, high]``."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ConfigError(
            f"{name} must be (smallest, largest) within [{low:g}, {high:g}]{unit and ' ' + unit}; got {tuple(value)}"
        )
