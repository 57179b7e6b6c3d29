"""Settings derived from the documented training options of micro-Doppler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def derive_settings(given: Mapping[str, Any], resumed: bool) -> dict[str, Any]:
    """Derive the final learning rate, and how often the last checkpoint is saved.

    Args:
        given: Values by documented option and by dotted name.
        resumed: Whether a run is resumed.

    Returns:
        Settings by dotted name.
    """
    settings: dict[str, Any] = {}
    if "lr" in given:
        settings["schedule.min_lr"] = given["lr"] / 10
    if "max_epochs" in given:
        # An interrupted short training should lose little.
        settings["checkpoint.save_last_freq"] = max(1, given["max_epochs"] // 40)
    return settings
