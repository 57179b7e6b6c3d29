"""Read training curves from the CSV logs, or from the checkpoint."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Curve = list[tuple[int, float]]
"""Points (optimiser step, value), in the order of the steps."""
_CSV_NAME = "metrics.csv"
_NO_CURVES = ("epoch", "step")
# Whole numbers up to here are exact as floating-point numbers; beyond, a step is damage.
_MOST_STEPS = 2**53


def read_curves(folder: str | Path) -> dict[str, Curve]:
    """Read the training curves of every ``metrics.csv`` below a folder as one log.

    A resumed run has a file for each part; if two parts logged the same step, the later part counts.

    Args:
        folder: The run's folder.

    Returns:
        Curves by column name, such as ``train/loss``; non-finite values and a line truncated by a crash are skipped.
    """
    files = sorted(Path(folder).rglob(_CSV_NAME), key=lambda path: path.stat().st_mtime_ns)
    merged: dict[str, dict[int, float]] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            for row in _rows(lines):
                step = _number(row.get("step"))
                if step is None or abs(step) > _MOST_STEPS:
                    continue
                for name, text in row.items():
                    value = _number(text)
                    if value is not None and isinstance(name, str) and name not in _NO_CURVES:
                        merged.setdefault(name, {})[int(step)] = value
    return {name: sorted(points.items()) for name, points in sorted(merged.items())}


def history_curve(checkpoint: Mapping[str, Any]) -> Curve:
    """Return the loss curve stored in a checkpoint of a short training (``TrainingHistory``); empty if none."""
    kept = checkpoint.get("callbacks", {}).get("TrainingHistory", {})
    losses = kept.get("losses", []) if isinstance(kept, Mapping) else []
    return [(step, float(loss)) for step, loss in enumerate(losses, 1) if math.isfinite(loss)]


def _rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV log up to the first that is no CSV, as after a crash."""
    try:
        yield from csv.DictReader(lines)
    except csv.Error:
        return


def _number(text: Any) -> float | None:
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
