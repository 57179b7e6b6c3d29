"""Losses of a training and norms of its weights, kept in a file and compared to 1e-5 relative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from comparison.commands import PATHS
from comparison.results import KINDS, SECTIONS, Side
from comparison.table import Row

TOLERANCE = 1e-5
_DIGITS = 8


def golden_numbers(side: Side, applications: Sequence[str]) -> dict[str, Any]:
    """Losses of one commit, and a few numbers of each set of weights, by application and path.

    Raises:
        MissingResultError: If a training failed.
    """
    kinds = {kind.name: kind for kind in KINDS}
    numbers: dict[str, Any] = {}
    for application in applications:
        for path in PATHS:
            losses = side.read(application, path, kinds["losses"])
            entry: dict[str, Any] = {"losses": [_rounded(value) for value in losses.values()]}
            for name in SECTIONS:
                arrays = side.read(application, path, kinds[name]).values()
                entry[name] = _summary([np.asarray(array, np.float64).ravel() for array in arrays])
            numbers[f"{application}/{path}"] = entry
    return numbers


def _summary(arrays: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    values = np.concatenate(arrays)
    norms = [float(np.linalg.norm(array)) for array in arrays]
    return {
        "num_values": len(values),
        "norm": _rounded(np.linalg.norm(values)),
        "mean_abs": _rounded(np.abs(values).mean()),
        # Weighted by place, so that two tensors that change places are seen.
        "norms_by_place": _rounded(sum((1 + place) * norm for place, norm in enumerate(norms))),
    }


def _rounded(value: Any) -> float:
    return float(f"{float(value):.{_DIGITS}g}")


def compare_golden(kept: Mapping[str, Any], found: Mapping[str, Any]) -> list[Row]:
    """Compare numbers with kept ones, to 1e-5 relative."""
    rows = []
    for name, entry in found.items():
        for kind, values in entry.items():
            before = kept.get(name, {}).get(kind)
            rows.append(Row(f"{name}/{kind}", *_compare_numbers(before, values)))
    return rows


def _compare_numbers(kept: Any, found: Any) -> tuple[bool, str]:
    if kept is None:
        return False, "not in the file"
    pairs = zip(*(list(v.values()) if isinstance(v, Mapping) else v for v in (kept, found)), strict=False)
    if len(kept) != len(found):
        return False, f"{len(found)} numbers instead of {len(kept)}"
    largest = max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs)
    return largest <= TOLERANCE, f"largest relative difference {largest:.2g}"
