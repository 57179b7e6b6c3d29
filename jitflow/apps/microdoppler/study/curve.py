"""Accuracies of the study with their intervals, and the picture of its curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.spectrogram_axes import new_figure
from jitflow.apps.microdoppler.study.plan import Arm, Cell
from jitflow.errors import ConfigError
from jitflow.evaluation.intervals import LEVEL, Interval, student_quantile
from jitflow.io.files import atomic_path

METHOD = "Student's t over seeds and over test sessions, in quadrature"
# Colours that are told apart in grey and by the colour-blind.
_COLOURS = ("#1f4e79", "#d1651f", "#3b8f5a", "#7a3b8f", "#8a8a8a", "#b8960c")
_PANEL_IN = (3.4, 2.9)
_DPI = 200


@dataclass(frozen=True)
class Point:
    """Accuracy of an arm, or the difference of two.

    Attributes:
        value: The mean over seeds, in [-1, 1].
        interval: Its interval.
    """

    value: float
    interval: Interval

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"value": self.value, "low": self.interval.low, "high": self.interval.high}


def interval_of_seeds(right: np.ndarray, groups: Sequence[int], *, bounded: bool = True) -> Point:
    """Mean of test results over seeds, with an interval that covers other seeds and other test sessions.

    Each seed has its own real samples, generator and classifier, and all have the same test sessions. The half-width is
    the root of the summed squares of two: Student's t of the seeds' means, and of the sessions' means. What both share
    counts twice, so it is rather too wide than too narrow. Users count as fixed.

    Args:
        right: Result of every test spectrogram for every seed, shape ``(S, N)``: whether it is right, or the difference
            of that between two arms.
        groups: Session of each test spectrogram, shape ``(N,)``, from 0.
        bounded: Whether these are shares, and the interval stays in ``[0, 1]``; else differences, in ``[-1, 1]``.

    Returns:
        The mean and its interval.

    Raises:
        ConfigError: If there are fewer than two seeds or sessions.
    """
    values = np.asarray(right, dtype=float)
    numbers = np.asarray(groups)
    by_session = np.array([values[:, numbers == group].mean() for group in np.unique(numbers)])
    if len(values) < 2 or len(by_session) < 2:
        raise ConfigError(f"an interval needs two seeds and two test sessions; got {len(values)}, {len(by_session)}")
    mean = float(values.mean())
    half = math.hypot(_half_width(values.mean(axis=1)), _half_width(by_session))
    lowest = 0.0 if bounded else -1.0
    return Point(mean, Interval(max(lowest, mean - half), min(1.0, mean + half), LEVEL, METHOD))


def _half_width(values: np.ndarray) -> float:
    return student_quantile((1 + LEVEL) / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


class Results:
    """Results of all cells, by classifier, subset and arm.

    Args:
        results: Content of every cell's file.
        groups: Session of each test spectrogram.
    """

    def __init__(self, results: Mapping[Cell, Mapping[str, Any]], groups: Sequence[int]) -> None:
        self.groups = groups
        self._results = results
        self.classifiers = list(dict.fromkeys(cell.classifier for cell in results))
        self.subsets = list(dict.fromkeys(cell.subset for cell in results))
        self.arms = list(dict.fromkeys(cell.arm for cell in results))

    def right(self, classifier: str, subset: str, arm: Arm) -> np.ndarray:
        """Whether each test spectrogram was named rightly, for each seed, shape ``(S, N)``."""
        wanted = (classifier, subset, arm)
        return np.array([r["right"] for c, r in self._results.items() if (c.classifier, c.subset, c.arm) == wanted])

    def accuracy(self, classifier: str, subset: str, arm: Arm) -> Point:
        """Accuracy of an arm."""
        return interval_of_seeds(self.right(classifier, subset, arm), self.groups)

    def gain(self, classifier: str, subset: str, arm: Arm, over: Arm) -> Point:
        """Difference of an arm's accuracy to another's, seed by seed and session by session."""
        difference = self.right(classifier, subset, arm) - self.right(classifier, subset, over)
        return interval_of_seeds(difference, self.groups, bounded=False)

    def accepted(self, subset: str) -> float | None:
        """Share of the generated samples that sifting accepts; None without sifting."""
        found = [r["accepted"] for c, r in self._results.items() if c.subset == subset and r["accepted"] is not None]
        return sum(found) / len(found) if found else None


def draw_curves(path: Path, results: Results) -> None:
    """Draw accuracy over generated samples per real one: a row for each classifier, a column for each subset.

    Args:
        path: The PNG; a PDF of the same is written beside it.
        results: All results.
    """
    rows, columns = len(results.classifiers), len(results.subsets)
    figure = new_figure(_PANEL_IN[0] * columns + 1.9, _PANEL_IN[1] * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for i, classifier in enumerate(results.classifiers):
        for j, subset in enumerate(results.subsets):
            panel = panels[i][j]
            _draw_panel(panel, results, classifier, subset)
            count = "all real samples" if subset == "all" else f"{subset} real samples"
            panel.set_title(f"{classifier}, {count} per user", fontsize=9)
            if i == rows - 1:
                panel.set_xlabel("added samples for each real one", fontsize=8)
            if not j:
                panel.set_ylabel("accuracy on other sessions, %", fontsize=8)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    for suffix in (".png", ".pdf"):
        with atomic_path(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=_DPI, format=suffix[1:])


def _draw_panel(panel: Any, results: Results, classifier: str, subset: str) -> None:
    """Draw the curves of a classifier and a subset; baselines without a number of added samples are bands."""
    curves: dict[str, list[tuple[float, Point]]] = {}
    for arm in results.arms:
        point = results.accuracy(classifier, subset, arm)
        if arm.source != "real":
            label = " ".join([arm.source, *(["and sifted"] * arm.sifted), *(["and classical"] * arm.classical)])
            curves.setdefault(label, []).append((arm.times, point))
    bands = {"real alone": Arm(), "classical augmentation": Arm(classical=True)}
    for colour, (name, arm) in zip(("#333333", _COLOURS[4]), bands.items(), strict=True):
        point = results.accuracy(classifier, subset, arm)
        style = "-" if arm.classical else "--"
        panel.axhline(100 * point.value, color=colour, linestyle=style, linewidth=1.2, label=name)
        panel.axhspan(100 * point.interval.low, 100 * point.interval.high, color=colour, alpha=0.1, linewidth=0)
    for number, (name, points) in enumerate(curves.items()):
        at = [k + 0.05 * (number - len(curves) / 2) for k, _ in points]
        mean = np.array([100 * point.value for _, point in points])
        ends = np.array([[100 * point.interval.low, 100 * point.interval.high] for _, point in points]).T
        colour = (_COLOURS[0], _COLOURS[1], _COLOURS[2], _COLOURS[3])[number % 4]
        panel.errorbar(
            at, mean, abs(ends - mean), color=colour, marker="os^D"[number % 4], markersize=4, capsize=2,
            linewidth=1.2, label=name,
        )  # fmt: skip
    panel.grid(alpha=0.25)
    panel.tick_params(labelsize=8)
