"""Compare the results of two commits bit for bit, a row of a table for each kind of result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from comparison.commands import PATHS
from comparison.results import KINDS, Kind, MissingResultError, Side, Values

# Differences that are meant, as application/path/kind, with the reason. Nothing else is left out of the comparison.
EXEMPT = {
    "text/recipe/scores without data_path": "7ea7bf0 judges a recipe's checkpoint on the built-in corpus instead of "
    "the text held out of its own training: a fault; with --data_path both must agree, see the row above",
}


@dataclass(frozen=True)
class Row:
    """A line of the table: whether a kind of result is equal, and what is to be said of it."""

    name: str
    equal: bool
    text: str

    @property
    def passes(self) -> bool:
        """Whether it is equal or need not be."""
        return self.equal or self.name in EXEMPT


def compare(first: Values, second: Values, *, extra_allowed: bool) -> tuple[bool, str]:
    """Compare two results bit for bit.

    Args:
        first: Arrays, numbers or texts by name.
        second: The same of another commit.
        extra_allowed: Whether the second may have more names.

    Returns:
        Whether they are equal, and what is to be said: how many, or where the largest difference is.
    """
    missing = sorted(first.keys() - second.keys())
    extra = sorted(second.keys() - first.keys())
    differing = {name: _difference(first[name], second[name]) for name in first.keys() & second.keys()}
    differing = {name: size for name, size in differing.items() if size is not None}
    notes = [f"{len(differing)} of {len(first)} differ"] if differing else []
    if differing:
        where = max(differing, key=lambda name: differing[name])
        notes.append(f"the most by {differing[where]:.3g} at {where}")
    notes += [
        f"{len(names)} only in the {which} ({names[0]})"
        for names, which in ((missing, "first"), (extra, "second"))
        if names
    ]
    equal = not differing and not missing and (extra_allowed or not extra)
    return equal, "; ".join([*(["equal"] if equal else []), *notes]) + (f" ({len(first)})" if equal else "")


def _difference(a: Any, b: Any) -> float | None:
    """Largest absolute difference; infinity where there is none to take, None if nothing differs."""
    if isinstance(a, str) or isinstance(b, str):
        return None if a == b else math.inf
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return math.inf
    if a.tobytes() == b.tobytes():
        return None
    largest = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    return math.inf if math.isnan(largest) else largest


def compare_sides(first: Side, second: Side, applications: Sequence[str]) -> list[Row]:
    """Compare every result of two commits."""
    rows = []
    for application in applications:
        for path in PATHS:
            for kind in KINDS:
                if application in kind.applications and path in kind.paths:
                    name = f"{application}/{path}/{kind.name}"
                    rows.append(Row(name, *_compare_kind(first, second, application, path, kind)))
    return rows


def _compare_kind(first: Side, second: Side, application: str, path: str, kind: Kind) -> tuple[bool, str]:
    results, missing = [], []
    for side in (first, second):
        try:
            results.append(side.read(application, path, kind))
        except MissingResultError as error:
            missing.append(str(error))
    if missing:
        return False, "; ".join(missing)
    return compare(*results, extra_allowed=kind.extra_allowed)


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table and the reasons of what is exempt."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = "  " if row.equal else "~ " if row.passes else "! "
        print(f"{mark}{row.name:<{width}}  {row.text}")
    for row in rows:
        if row.passes and not row.equal:
            print(f"~ need not be equal: {row.name}: {EXEMPT[row.name]}")
