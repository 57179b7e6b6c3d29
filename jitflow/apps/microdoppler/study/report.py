"""Report of the study: one sentence that its numbers say, tables, JSON and an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jitflow.apps.microdoppler.study.classifiers import CNN
from jitflow.apps.microdoppler.study.curve import METHOD, Point, Results, draw_curves
from jitflow.apps.microdoppler.study.data import StudyRecord
from jitflow.apps.microdoppler.study.plan import MOST_TIMES, Arm
from jitflow.io.files import write_json, write_text
from jitflow.io.html_page import html_figure, html_page, html_section, html_table

REPORT_NAME, PAGE_NAME, CURVE_NAME = "study.json", "study.html", "curve.png"
HEADLINE = Arm("generated", float(MOST_TIMES))
"""The arm of the sentence, chosen before any result: most generated samples, not sifted."""
_REAL, _CLASSICAL = Arm(), Arm(classical=True)


def state_finding(real: Point, generated: Point, gain: Point, over_classical: Point, subset: str) -> str:
    """Describe in one sentence how generated samples change the accuracy, whichever way that is.

    Args:
        real: Accuracy of the classifier trained on real samples alone.
        generated: Accuracy with generated samples.
        gain: Difference of the two.
        over_classical: Difference of generated samples to classical augmentation.
        subset: Real samples of each user.

    Returns:
        The sentence. A difference whose interval contains 0 is none.
    """
    count = "all" if subset == "all" else subset
    how = {1: "raises", -1: "lowers", 0: "does not reliably change"}[_side(gain)]
    against = {
        1: "which is better than classical augmentation",
        -1: "which is worse than classical augmentation",
        0: "which cannot be told from classical augmentation",
    }[_side(over_classical)]
    return (
        f"With {count} real samples per user, adding {MOST_TIMES} generated ones for each {how} a classifier's "
        f"accuracy on other sessions ({_percent(real.value)} to {_percent(generated.value)} %, {_points(gain)}), "
        f"{against} ({_points(over_classical)})."
    )


def _side(point: Point) -> int:
    return (point.interval.low > 0) - (point.interval.high < 0)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(point: Point) -> str:
    low, high = point.interval.low, point.interval.high
    return f"{100 * point.value:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"


def describe_sources(record: StudyRecord) -> str:
    """Name all data that the generators saw, and what is tested on."""
    if record.others:
        other = (
            f"each generator was pretrained on {record.num_others} spectrograms of {len(record.others)} other people "
            f"({record.sources[-1]}) and then trained on the subset's own real samples alone"
        )
    else:
        other = "each generator was trained on the subset's own real samples alone, and on no other data"
    apart = (
        f"{len(set(record.test_groups))} {record.group}s that nothing was trained on"
        if record.group
        else "which are not known to be of other sessions"
    )
    return (
        f"{len(record.user_ids)} users, {sum(record.num_train)} training spectrograms ({record.sources[0]}); {other}; "
        f"tested on {record.num_test} spectrograms of {apart}"
    )


def finding_of(results: Results, subset: str) -> str:
    """Return the sentence about a subset, by the small network."""
    return state_finding(
        results.accuracy(CNN, subset, _REAL),
        results.accuracy(CNN, subset, HEADLINE),
        results.gain(CNN, subset, HEADLINE, _REAL),
        results.gain(CNN, subset, HEADLINE, _CLASSICAL),
        subset,
    )


def write_report(
    folder: Path, results: Results, record: StudyRecord, settings: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Write the report, ``study.json``, ``study.html`` and ``curve.png``, and print its table of scores and sentence.

    Args:
        folder: Folder of the study.
        results: All results.
        record: What is known of the data.
        settings: Settings of the study.
        seconds: Time of each part.

    Returns:
        The content of ``study.json``.
    """
    draw_curves(folder / CURVE_NAME, results)
    sentences = {subset: finding_of(results, subset) for subset in results.subsets}
    rows = list(_rows(results))
    interval = f"95 %, {METHOD}"
    report = {
        "finding": sentences[results.subsets[0]],
        "findings": sentences,
        "sources": describe_sources(record),
        "interval": interval,
        "num_seeds": len(results.right(CNN, results.subsets[0], _REAL)),
        "cells": rows,
        "accepted": {subset: results.accepted(subset) for subset in results.subsets},
        "leakage": record.leakage,
        "settings": dict(settings),
        "seconds": dict(seconds),
    }
    write_json(folder / REPORT_NAME, report)
    headings = ("classifier", "real per user", "training", "accuracy, %", "over real alone", "over classical")
    cells = [_cells(row) for row in rows]
    body = html_section("Finding", "".join(f"<p>{sentence}</p>" for sentence in sentences.values()))
    body += html_section("Curves", html_figure((folder / CURVE_NAME).read_bytes(), interval, wide=True))
    body += html_section("Accuracies", html_table(cells, headings)) + html_section(
        "Data and settings",
        f"<p>{report['sources']}.</p>" + html_table([(name, str(value)) for name, value in settings.items()]),
    )
    write_text(folder / PAGE_NAME, html_page("Does generated data help?", body))
    _print(report, headings, cells, folder)
    return report


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    for classifier in results.classifiers:
        for subset in results.subsets:
            for arm in results.arms:
                over = None if arm in (_REAL, _CLASSICAL) else results.gain(classifier, subset, arm, _CLASSICAL)
                yield {
                    "classifier": classifier,
                    "subset": subset,
                    "arm": arm.name,
                    "accuracy": results.accuracy(classifier, subset, arm).record(),
                    "gain": None if arm == _REAL else results.gain(classifier, subset, arm, _REAL).record(),
                    "gain_over_classical": None if over is None else over.record(),
                }


def _cells(row: Mapping[str, Any]) -> list[str]:
    def shown(point: Mapping[str, float] | None, sign: str) -> str:
        if point is None:
            return ""
        value, low, high = (format(100 * point[name], f"{sign}.1f") for name in ("value", "low", "high"))
        return f"{value} ({low} to {high})"

    differences = [shown(row[name], "+") for name in ("gain", "gain_over_classical")]
    return [row["classifier"], row["subset"], row["arm"], shown(row["accuracy"], ""), *differences]


def _print(report: Mapping[str, Any], headings: tuple[str, ...], cells: list[list[str]], folder: Path) -> None:
    console = Console(markup=False, soft_wrap=True)
    table = Table(*headings)
    for row in cells:
        table.add_row(*row)
    console.print(table)
    console.print(f"{report['sources']}; intervals: {report['interval']}, {report['num_seeds']} seeds")
    for subset, share in report["accepted"].items():
        if share is not None:
            console.print(f"sifting accepts {share:.0%} of the samples generated from {subset} real ones per user")
    console.print(f"{report['finding']}\nlook at {folder / CURVE_NAME} and {folder / PAGE_NAME}")
