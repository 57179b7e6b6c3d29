"""Check the values that the owner of a data set or of a radar states by name in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jitflow.errors import ConfigError, unknown_name

Check = Callable[[str, Any], Any]
"""Function of a value's name, for messages, and the value; returns it converted or raises ConfigError."""


def check_stated(values: Any, checks: Mapping[str, Check], source: object, *, example: str) -> dict[str, Any]:
    """Check settings by name, such as those of a YAML file; those that are null are left out.

    Args:
        values: The settings.
        checks: Check of each setting that there is.
        source: Where the settings are from, for messages.
        example: A setting as it may stand there, for messages.

    Returns:
        The converted values by name.

    Raises:
        ConfigError: If they are no settings, a name is unknown or a value invalid.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source} must hold settings by name, such as `{example}`; got {values!r}")
    checked = {}
    for name, value in values.items():
        if name not in checks:
            raise unknown_name(f"setting in {source}", name, checks)
        if value is not None:
            checked[name] = checks[name](f"{source}: {name}", value)
    return checked


def stated_number(name: str, value: Any) -> float:
    """Convert a value of a YAML file to a finite number; raise ConfigError if it is none."""
    # In YAML, 24e9 is a text.
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be a number; got {value!r}")
    return number


def stated_positive(name: str, value: Any) -> float:
    """Convert a value of a YAML file to a number above 0; raise ConfigError if it is none."""
    number = stated_number(name, value)
    if number <= 0:
        raise ConfigError(f"{name} must be above 0; got {value!r}")
    return number


def stated_pair(name: str, value: Any) -> tuple[float, float]:
    """Convert a value of a YAML file to two rising numbers; raise ConfigError if it is none."""
    if not isinstance(value, list) or len(value) != 2:
        raise ConfigError(f"{name} must be two numbers, such as [-60, 0]; got {value!r}")
    low, high = (stated_number(name, end) for end in value)
    if not low < high:
        raise ConfigError(f"{name} must rise from its first number to its second; got {value}")
    return low, high


def stated_flag(name: str, value: Any) -> bool:
    """Return a value of a YAML file that is true or false; raise ConfigError for others."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false; got {value!r}")
    return value


def stated_text(name: str, value: Any) -> str:
    """Return a value of a YAML file that is a text; raise ConfigError for others."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be a name; got {value!r}")
    return value


def stated_name(*known: str) -> Check:
    """Return the check of a value of a YAML file that must be one of a few names."""

    def check(name: str, value: Any) -> str:
        if value not in known:
            raise unknown_name(name, value, known)
        return str(value)

    return check


def stated_count(least: int, most: int) -> Check:
    """Return the check of a value of a YAML file that must be a whole number in a range."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name} must be a whole number from {least} to {most:,}; got {value!r}")
        return value

    return check


def stated_range(least: float, most: float) -> Check:
    """Return the check of a value of a YAML file that must be a number in a range."""

    def check(name: str, value: Any) -> float:
        number = stated_number(name, value)
        if not least <= number <= most:
            raise ConfigError(f"{name} must lie in [{least:g}, {most:g}]; got {value!r}")
        return number

    return check
