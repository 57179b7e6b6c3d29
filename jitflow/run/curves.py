"""Read training curves from the CSV logs, or from the checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from jitflow.io.csv_file import iter_csv_rows

log = logging.getLogger(__name__)

Curve = list[tuple[int, float]]
"""Points (optimiser step, value), in the order of the steps."""
_CSV_NAME = "metrics.csv"
_NO_CURVES = ("epoch", "step")
# Whole numbers up to here are exact as floating-point numbers; beyond, a step is damage.
_MOST_STEPS = 2**53
# A curve of larger ones, which float32 hardly has, cannot be drawn.
_MOST_VALUE = 1e38
# A training that logs every 50 steps writes 20,000 rows in a million steps.
_MOST_ROWS = 1_000_000
_MOST_VALUES = 2_000_000


def read_curves(folder: str | Path) -> dict[str, Curve]:
    """Read the training curves of every ``metrics.csv`` below a folder as one log.

    A resumed run has a file for each part; if two parts logged the same step, the later part counts.

    Args:
        folder: The run's folder.

    Returns:
        Curves by column name, such as ``train/loss``. Values that are not finite or beyond 1e38 are skipped, and so is
        a line that a crash truncated.
    """
    files = sorted(Path(folder).rglob(_CSV_NAME), key=lambda path: path.stat().st_mtime_ns)
    merged: dict[str, dict[int, float]] = {}
    num_values = 0
    for file in files:
        for row in islice(iter_csv_rows(file), _MOST_ROWS):
            step = _number(row.get("step"))
            if step is None or abs(step) > _MOST_STEPS:
                continue
            for name, text in row.items():
                value = _number(text)
                if value is not None and name not in _NO_CURVES:
                    merged.setdefault(name, {})[int(step)] = value
                    num_values += 1
            if num_values > _MOST_VALUES:
                log.warning("%s: the log is longer than %d values; its curves end there", file, _MOST_VALUES)
                break
    return {name: sorted(points.items()) for name, points in sorted(merged.items())}


def history_curve(checkpoint: Mapping[str, Any]) -> Curve:
    """Return the loss curve stored in a checkpoint of a short training (``TrainingHistory``); empty if none."""
    kept = checkpoint.get("callbacks", {}).get("TrainingHistory", {})
    losses = kept.get("losses", []) if isinstance(kept, Mapping) else []
    return [(step, float(loss)) for step, loss in enumerate(losses, 1) if math.isfinite(loss)]


def _number(text: str | None) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < _MOST_VALUE else None
