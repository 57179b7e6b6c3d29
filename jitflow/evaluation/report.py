"""Reports of evaluations: scores, their intervals, the protocol, and marks of feature spaces that were trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from rich.table import Table

from jitflow.evaluation.intervals import Interval
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.training.trained_on import is_same_space

REPORT_NAMES = ("report.json", "evaluation.json")
"""Files of a report in the folder of an evaluation, by application."""
TRAINED_ON = "trained on"
"""Mark of a score whose feature space a training of the model optimised."""
_MOST_SCORE = 1e300


def build_report(
    sheet: ScoreSheet,
    protocol: Mapping[str, Any],
    trained_on: Iterable[str] = (),
    warnings: Iterable[str] = (),
) -> dict[str, Any]:
    """Build the part of a report that every application has in common.

    Args:
        sheet: The scores: ``SCORE`` in the space of the protocol, ``SPACE/SCORE``, or ``ROW/SPACE/SCORE``.
        protocol: The protocol card.
        trained_on: Names of the feature spaces that a training of the model optimised.
        warnings: Warnings about the scores.

    Returns:
        ``metrics``, ``intervals``, ``protocol``, ``warnings`` and ``trained_on``, as plain values for JSON.
    """
    return {
        "metrics": dict(sheet.metrics),
        "intervals": {name: interval.record() for name, interval in sheet.intervals.items()},
        "protocol": dict(protocol),
        "warnings": list(warnings),
        "trained_on": list(trained_on),
    }


def is_report(content: Any) -> bool:
    """Whether the content of a JSON file is a report of an evaluation, with its parts of the right types."""
    if not isinstance(content, Mapping) or not {"metrics", "protocol"} <= content.keys():
        return False
    parts = [content["metrics"], content["protocol"], content.get("intervals", {})]
    return all(isinstance(part, Mapping) for part in parts) and isinstance(content.get("trained_on", []), list)


def report_files(checkpoint: Path) -> Iterator[Path]:
    """Yield the files beside a checkpoint that may be reports: in its run's folder, and one level deeper.

    Args:
        checkpoint: The checkpoint's file.
    """
    parent = checkpoint.resolve().parent
    for folder in (parent, parent.parent):
        for name in REPORT_NAMES:
            yield from sorted([*folder.glob(name), *folder.glob(f"*/{name}")])


def spaces_of(name: str, protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a score's feature spaces: the part of its name, and the extractors that the card gives it.

    Args:
        name: Name of the score.
        protocol: The protocol card; ``extractor`` is a name, or a name for each space. A mean over spaces, such as
            ``fdr6``, has all of them.
    """
    *_, space, _ = ("", *name.split("/"))
    extractor = protocol.get("extractor")
    if isinstance(extractor, Mapping):
        known = [extractor[space]] if space in extractor else extractor.values() if space.startswith("fdr") else []
    else:
        # Beside the scores of an extractor those of other spaces have a name.
        known = [] if space or extractor is None else [extractor]
    return tuple(str(part) for part in (space, *known) if part)


def is_trained_on(name: str, report: Mapping[str, Any]) -> bool:
    """Whether a training of the evaluated model optimised the feature space of a score.

    Args:
        name: Name of the score.
        report: The report.
    """
    spaces = spaces_of(name, report["protocol"])
    return any(is_same_space(space, trained) for trained in report.get("trained_on", ()) for space in spaces)


def is_score(value: Any) -> TypeGuard[float]:
    """Whether an entry of a report's ``metrics`` is a score: a finite number."""
    # Of whole numbers, JSON can hold such as no float can.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_SCORE


def interval_of(name: str, report: Mapping[str, Any]) -> Interval | None:
    """Return the interval of a score; None if the report has none."""
    record = report.get("intervals", {}).get(name)
    return None if record is None else Interval.from_record(record)


def format_score(value: float) -> str:
    """Format a score for people: four significant digits."""
    return f"{value:.4g}"


def format_interval(interval: Interval | None) -> str:
    """Format the interval of a score for people; empty for none."""
    return "" if interval is None else f"{format_score(interval.low)} to {format_score(interval.high)}"


def score_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the rows of a table of scores: name, value, interval, and a mark where the model was trained on it.

    Args:
        report: The report; entries of its ``metrics`` that are no numbers are left out.
    """
    return [
        (
            name,
            format_score(value),
            format_interval(interval_of(name, report)),
            TRAINED_ON if is_trained_on(name, report) else "",
        )
        for name, value in report["metrics"].items()
        if is_score(value)
    ]


def interval_heading(report: Mapping[str, Any]) -> str:
    """Return the heading of a column of intervals of scores, with their level."""
    levels = {Interval.from_record(record).level for record in report.get("intervals", {}).values()}
    return f"{max(levels):.0%} interval" if levels else "interval"


def score_table(report: Mapping[str, Any]) -> Table:
    """Build the table of a report's scores with their intervals, and a mark where the model was trained on the score.

    Args:
        report: The report.
    """
    table = Table()
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column(interval_heading(report), justify="right")
    rows = score_rows(report)
    if any(mark for *_, mark in rows):
        table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table
