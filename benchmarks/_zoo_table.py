"""Tables of the zoo: paired differences to the base with 95 % t intervals, and what a method costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _zoo_data import HELD_OUT
from _zoo_rows import BASE

from jitflow.evaluation.intervals import disjoint_sets

NO_DIFFERENCE = "no difference seen"
COLUMNS = ("row", "equal steps", "", "equal time", "", "time", "memory", "sampling", "seeds")


def differences(runs: Iterable[Mapping[str, Any]], data: str, row: str, at: str, judge: str = HELD_OUT) -> list[float]:
    """Return the scores of a row minus those of the base, by seed, for the seeds that both have.

    Args:
        runs: The runs.
        data: Name of the data.
        row: Name of the row.
        at: Snapshot, ``equal_steps`` or ``equal_time``.
        judge: Name of the judge.
    """
    scores: dict[str, dict[int, float]] = {BASE: {}, row: {}}
    for run in runs:
        if run["data"] == data and run["row"] in scores:
            scores[run["row"]][run["seed"]] = run["scores"][at][judge]
    return [score - scores[BASE][seed] for seed, score in sorted(scores[row].items()) if seed in scores[BASE]]


def verdict(paired: Sequence[float]) -> tuple[str, str]:
    """Return the mean difference with its interval, and what it says; a lower score is better.

    Args:
        paired: Differences by seed.
    """
    if len(paired) < 2:
        return (f"{paired[0]:+.3f}", "one seed") if paired else ("", "untested")
    interval = disjoint_sets(paired)
    shown = f"{statistics.mean(paired):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    if 0 in interval:
        return shown, NO_DIFFERENCE
    return shown, "better" if interval.high < 0 else "worse"


def best_rows(
    runs: Sequence[Mapping[str, Any]], data: str, rows: Iterable[str], seeds: Sequence[int], num: int
) -> list[str]:
    """Return the rows with the lowest mean difference to the base at equal steps, of those that have every seed.

    Args:
        runs: The runs.
        data: Name of the data.
        rows: Names of rows to choose from.
        seeds: The seeds.
        num: Most rows to return.
    """
    found = {row: differences(runs, data, row, "equal_steps") for row in rows if row != BASE}
    whole = {row: statistics.mean(paired) for row, paired in found.items() if paired and len(paired) >= len(seeds)}
    return sorted(whole, key=whole.__getitem__)[:num]


def report(runs: Sequence[Mapping[str, Any]], rows: Iterable[str]) -> str:
    """Format a Markdown table for each data set and judge; rows that have not run on the first data read "untested".

    Args:
        runs: The runs.
        rows: Names of all rows.
    """
    parts, shown = [], list(rows)
    for number, data in enumerate(dict.fromkeys(run["data"] for run in runs)):
        of_data = [run for run in runs if run["data"] == data]
        if number:
            shown = [row for row in shown if any(run["row"] == row for run in of_data)]
        for judge in of_data[0]["scores"]["equal_steps"]:
            parts.append(_table(of_data, data, judge, shown))
    return "\n\n".join(parts) or "no runs yet"


def _table(runs: Sequence[Mapping[str, Any]], data: str, judge: str, rows: Iterable[str]) -> str:
    base = {run["seed"]: run for run in runs if run["row"] == BASE}
    scores = [run["scores"]["equal_steps"][judge] for run in base.values()]
    title = f"{data}, Frechet distance, judge: {judge}; base: {statistics.mean(scores):.3f}" if scores else data
    if len(scores) > 1:
        title += f" (standard deviation over seeds {statistics.stdev(scores):.3f})"
    lines = [title, "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        if row == BASE:
            continue
        own = [run for run in runs if run["row"] == row and run["seed"] in base]
        cells = [
            part for at in ("equal_steps", "equal_time") for part in verdict(differences(runs, data, row, at, judge))
        ]
        costs = [_ratio(own, base, name) for name in ("step_sec", "kept_mib", "sampling_sec")]
        mark = " (trained on this judge)" if any(judge in run["trained_on"] for run in own) else ""
        lines.append(f"| {' | '.join([row + mark, *cells, *costs, str(len(own))])} |")
    return "\n".join(lines)


def _ratio(runs: Sequence[Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]], name: str) -> str:
    """Return a cost relative to the base's, the median over seeds."""
    if not runs or not all(base[run["seed"]][name] for run in runs):
        return ""
    return f"x {statistics.median(run[name] / base[run['seed']][name] for run in runs):.2f}"
