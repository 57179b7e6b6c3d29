"""Count what the rules of the house ask for, and hold what has been reached.

    python tests/house.py          a table of counts, the options of every command, and what is left of two rules
    python tests/house.py WORD     every place that is counted in the rows whose name has the word

The test suite holds each count at its limit. Where a count has fallen, lower its limit here; raising one needs a reason
in the commit. No file of the library is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import house_counts as counts
from house_options import find_options, options_by_command
from house_source import ROOT, House


@dataclass(frozen=True)
class Row:
    """A count.

    Attributes:
        name: What is counted.
        find: Function that lists its places.
        limit: Most that the test suite allows: today's count, or the goal once that is reached.
        goal: Most that there should be; None where fewer are better and no number is right.
        shown: How many places the table is followed by.
    """

    name: str
    find: Callable[[House], list[str]]
    limit: int
    goal: int | None
    shown: int = 0

    def better(self, count: int) -> bool:
        """Whether the limit can be lowered."""
        return max(count, self.goal or 0) < self.limit


ROWS = (
    Row("places that train with a Trainer", counts.find_trainings, 1, 1),
    Row('questions "which application is this?"', counts.find_questions, 0, 0, shown=20),
    Row("options on the command line", find_options, 143, 143),
    Row("files over 400 lines", counts.find_long_files, 0, 0),
    Row("test files over 400 lines", counts.find_long_test_files, 0, 0),
    Row("functions over 100 lines", counts.find_long_functions, 0, 0),
    Row("functions with over 14 arguments", counts.find_many_arguments, 0, 0),
    Row("forwardings name=name", counts.find_forwardings, 349, None),
    Row("import circles", counts.find_circles, 0, 0),
    Row("imports that run back up", counts.find_imports_upwards, 0, 0),
    Row("docstrings without a noun of the field", counts.find_vague_docstrings, 0, 0, shown=10),
    Row("private names in tests", counts.find_private_names, 0, 0),
    Row("match= over 40 characters in tests", counts.find_long_matches, 0, 0),
)


def verdict(row: Row, count: int) -> str:
    """Say how a count stands to its limit and its goal; empty for one that is where it was."""
    if count > row.limit:
        return "WORSE than its limit"
    if row.better(count):
        return f"better: lower the limit to {max(count, row.goal or 0)}"
    return "reached" if row.goal is not None and count <= row.goal else ""


def table(found: dict[Row, list[str]]) -> list[str]:
    """Lines of the table, and below it the places that a row shows."""
    width = max(len(row.name) for row in found)
    lines = [f"{'':<{width}} {'count':>6} {'limit':>6} {'goal':>6}"]
    for row, places in found.items():
        goal = "fewer" if row.goal is None else row.goal
        line = f"{row.name:<{width}} {len(places):>6} {row.limit:>6} {goal:>6}  {verdict(row, len(places))}"
        lines.append(line.rstrip())
    for row, places in found.items():
        if row.shown and places:
            some = f", the first {row.shown} of {len(places)}" if len(places) > row.shown else ""
            lines += ["", f"{row.name}{some}:", *(f"  {place}" for place in places[: row.shown])]
    return lines


def option_lines(options: dict[str, list[str]]) -> list[str]:
    """Lines that say how many options each command has."""
    return ["", "options by command:", *(f"  {len(names):>3}  {command}" for command, names in options.items())]


def main(words: list[str]) -> int:
    """Print the table, or the places of some rows; return 1 if a count is over its limit."""
    house = House(ROOT)
    asked = [row for row in ROWS if all(word in row.name for word in words)]
    if not asked:
        print(f"no row has {' '.join(words)!r} in its name; rows: {', '.join(row.name for row in ROWS)}")
        return 1
    found = {row: row.find(house) for row in asked}
    if words:
        print("\n".join(place for places in found.values() for place in places))
    else:
        print("\n".join([*table(found), *option_lines(options_by_command(house))]))
    return int(any(len(places) > row.limit for row, places in found.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
