"""The scores of a report as tables for people: printed, and for several rows or feature spaces as PNG and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jitflow import pictures
from jitflow.evaluation.intervals import Interval
from jitflow.evaluation.report import TRAINED_ON, interval_of, is_score, is_trained_on, score_table
from jitflow.io.files import write_text
from jitflow.io.html_page import html_figure, html_page, html_section, html_table

PICTURE, PAGE = "matrix.png", "matrix.html"
_FRECHET, _RATIO = "frechet_distance", "frechet_ratio"
# What is printed and its title; the page has the rest.
_PRINTED = {
    _FRECHET: "FD",
    "frechet_validation": "val.",
    _RATIO: "ratio",
    "kid": "KID",
    "precision": "prec.",
    "recall": "rec.",
    "density": "dens.",
    "coverage": "cov.",
}
_MEANS = {"arithmetic": "mean", "geometric": "geo. mean"}
_SHARES = ("precision", "recall", "density", "coverage")

Cells = dict[str, dict[str, dict[str, str]]]
"""Written scores by row, feature space and name of the score."""


def cells_of(report: Mapping[str, Any]) -> Cells:
    """Sort the flat scores of a report into rows and feature spaces.

    Args:
        report: A report whose scores are named ``ROW/SPACE/SCORE``.

    Returns:
        Each score with its interval, as text; empty for a report of one row and space.
    """
    found: Cells = {}
    for name, value in report["metrics"].items():
        if name.count("/") == 2 and is_score(value):
            row, space, score = name.split("/")
            found.setdefault(row, {}).setdefault(space, {})[score] = _written(value, interval_of(name, report))
    return found


def print_report(report: Mapping[str, Any]) -> None:
    """Print the scores with their intervals, and the protocol card of a report."""
    console = Console(markup=False)
    cells = cells_of(report)
    if cells:
        console.print(overview(report))
        for row, spaces in cells.items():
            copied = ", ".join(f"{space} {found['copies']}" for space, found in spaces.items() if "copies" in found)
            console.print(f"copies of training images, {row}: {copied or 'unknown'}", markup=False)
    else:
        console.print(score_table(report))
    card = Table("protocol", "value")
    for name, value in report["protocol"].items():
        card.add_row(name, str(value))
    console.print(card)


def overview(report: Mapping[str, Any]) -> Table:
    """Make the printed table of a matrix: the main scores of every row and feature space, the ratios with intervals."""
    table = Table(title=_title(report), box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("samples", no_wrap=True)
    for title in _PRINTED.values():
        table.add_column(title, justify="right", no_wrap=True)
    for row, spaces in cells_of(report).items():
        table.add_row(row, style="bold")
        for space, found in spaces.items():
            for mean, title in _MEANS.items():
                if mean in found:
                    ratio = [found[mean] if name == _RATIO else "" for name in _PRINTED]
                    table.add_row(f"  {space} {title}", *ratio)
            if _FRECHET in found:
                is_trained = _titled(space, report) != space
                shown = [_printed(f"{row}/{space}/{name}", report) for name in _PRINTED]
                table.add_row(f"  {space}{' *' if is_trained else ''}", *shown)
                table.caption = "* the model was trained on this feature space" if is_trained else table.caption
        table.add_section()
    return table


def _printed(name: str, report: Mapping[str, Any]) -> str:
    """Write a score so briefly that a table of them fits 80 columns: only a ratio with its interval."""
    value, score = report["metrics"].get(name), name.rpartition("/")[2]
    if value is None:
        return ""
    if score in _SHARES:
        return f"{value:.2f}"
    return f"{value:.2g}" if score == "kid" else _written(value, interval_of(name, report) if score == _RATIO else None)


def _scores(spaces: Mapping[str, Mapping[str, str]]) -> list[str]:
    """List the scores that any feature space has, each once."""
    return list(dict.fromkeys(score for found in spaces.values() for score in found))


def _titled(space: str, report: Mapping[str, Any]) -> str:
    """Return the title of a feature space's column, with a mark if the model was trained on it."""
    return f"{space} ({TRAINED_ON})" if is_trained_on(f"{space}/{_FRECHET}", report) else space


def write_matrix(report: Mapping[str, Any], out: Path) -> None:
    """Draw the matrix of a report, and write its page with all scores; nothing for one row and feature space.

    Args:
        report: The report.
        out: Folder of ``matrix.png`` and ``matrix.html``.
    """
    cells = cells_of(report)
    if not cells:
        return
    first = next(iter(cells.values()))
    shown = {space: [score for score in (_RATIO, "arithmetic", _FRECHET) if score in first[space]] for space in first}
    chosen = {space: scores[0] for space, scores in shown.items() if scores}
    metrics = report["metrics"]
    pictures.heat_map(
        out / PICTURE,
        [[metrics[f"{row}/{space}/{score}"] for space, score in chosen.items()] for row in cells],
        columns=[f"{_titled(space, report)}\n{score.replace('_', ' ')}" for space, score in chosen.items()],
        rows=list(cells),
        xlabel="feature space (lower is better; compare within a column)",
        title=_title(report),
        framed=False,
    )
    figure = html_figure((out / PICTURE).read_bytes(), "Matrix of scores", wide=True)
    tables = "".join(html_section(row, _html_table(spaces, report)) for row, spaces in cells.items())
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in report["warnings"])
    card = html_table((name, str(value)) for name, value in report["protocol"].items())
    sections = [tables, html_section("Warnings", warnings and f"<ul>{warnings}</ul>"), html_section("Protocol", card)]
    write_text(out / PAGE, html_page(_title(report), figure + "".join(sections)))


def _html_table(spaces: Mapping[str, Mapping[str, str]], report: Mapping[str, Any]) -> str:
    headings = ["", *(_titled(space, report) for space in spaces)]
    rows = ([score, *(found.get(score, "") for found in spaces.values())] for score in _scores(spaces))
    return html_table(rows, headings)


def _title(report: Mapping[str, Any]) -> str:
    protocol = report["protocol"]
    return f"{Path(protocol['checkpoint'] or 'model').name}, {protocol['num_images']} images a row"


def _written(value: float, interval: Interval | None) -> str:
    return f"{value:.3g}" if interval is None else f"{value:.3g} {_ends(interval)}"


def _ends(interval: Interval) -> str:
    return f"[{interval.low:.3g}, {interval.high:.3g}]"
