"""Measure nested values of checkpoints and YAML files: number, depth and bytes, with everything shared counted again.

A file of a kilobyte can hold a list of lists of the same list, which has 10^28 values for whoever walks through it, or
a list that holds itself. Both are found here in one visit of each object.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_DEPTH = 64
"""Most levels of nested settings in a file; recipes and checkpoints have about ten."""
MOST_VALUES = 2_000_000
"""Most values in the settings of a file, shared ones counted wherever they are named."""


@dataclass(frozen=True)
class Extent:
    """Extent of nested values of a checkpoint or YAML file, as a tree without shared parts.

    Attributes:
        values: Number of values, containers included.
        depth: Levels of containers.
        num_bytes: Bytes of texts and of other large values.
    """

    values: int
    depth: int
    num_bytes: int


def measure(
    value: Any,
    *,
    most_depth: int = MOST_DEPTH,
    parts: Callable[[Any], Iterable[Any] | None] | None = None,
    num_bytes: Callable[[Any], int] | None = None,
) -> Extent:
    """Measure the nested values of a checkpoint or YAML file.

    Args:
        value: The outermost value.
        most_depth: Most levels of containers.
        parts: Returns what a value contains, None if it is no container; dictionaries, lists, tuples, sets and
            namespaces by default.
        num_bytes: Returns the bytes of a value that is no container; those of texts by default.

    Returns:
        The extent.

    Raises:
        ValueError: If a container holds itself, or they are nested too deeply.
    """
    return _measure(value, 0, {}, most_depth, parts or parts_of, num_bytes or _bytes_of_text)


def check_number_of_values(extent: Extent, *, most: int = MOST_VALUES) -> None:
    """Raise ValueError if the settings of a checkpoint or YAML file have too many values."""
    if extent.values > most:
        raise ValueError(f"it has {extent.values:.3g} values, with shared ones; at most {most:.3g} are read")


def parts_of(value: Any) -> Iterable[Any] | None:
    """Return what a value of a checkpoint contains, names and values alike; None if it is no container."""
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    if isinstance(value, Namespace):
        return vars(value).values()
    return value if isinstance(value, (list, tuple, set, frozenset)) else None


def well_formed(text: str) -> str:
    """Replace lone surrogates in a text, which no encoding can write, by U+FFFD; pairs become their character."""
    try:
        # The state of an ASCII text is known, so that most texts cost nothing.
        text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def printable(text: str) -> str:
    """Escape the control characters of a text of a file, which could move a terminal's cursor; lines stay lines."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _bytes_of_text(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes)) else 0


def _measure(
    value: Any,
    depth: int,
    known: dict[int, Extent | None],
    most_depth: int,
    parts: Callable[[Any], Iterable[Any] | None],
    num_bytes: Callable[[Any], int],
) -> Extent:
    inside = parts(value)
    if inside is None:
        return Extent(1, 0, num_bytes(value))
    found = known.get(id(value))
    if found is None:
        if id(value) in known:
            raise ValueError("a part of it holds itself")
        if depth >= most_depth:
            raise ValueError(f"it is nested too deeply, more than {most_depth} levels")
        known[id(value)] = None
        values, height, size = 1, 0, 0
        for part in inside:
            one = _measure(part, depth + 1, known, most_depth, parts, num_bytes)
            values, height, size = values + one.values, max(height, one.depth), size + one.num_bytes
        found = known[id(value)] = Extent(values, 1 + height, size)
    if depth + found.depth > most_depth:
        raise ValueError(f"it is nested too deeply, more than {most_depth} levels")
    return found
