"""Plot of a text evaluation: token accuracy at each noise level, with baselines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jitflow.errors import DataError
from jitflow.io.files import atomic_path
from jitflow.pictures import write_literally

_COLOURS = ("#1f6fb4", "#e07b39", "#3c9a5f", "#a0559b", "#c03d3e")
_GREY = "#8a8f98"
_DASHES = ("--", ":", "-.")


def plot_accuracy(
    path: str | Path,
    curves: Mapping[str, Mapping[float, float]],
    *,
    baselines: Mapping[str, Mapping[float, float]] | None = None,
    title: str = "Tokens read from a noisy text",
) -> None:
    """Plot token accuracy as a function of t, one curve for each model.

    Args:
        path: Where to save the PNG.
        curves: Accuracy in ``[0, 1]`` at each time, by name of the model.
        baselines: Accuracy of the baselines, drawn in grey.
        title: Title.

    Raises:
        DataError: If a curve has no points.
    """
    baselines = baselines or {}
    empty = [name for name, curve in [*curves.items(), *baselines.items()] if not curve]
    if empty:
        raise DataError(f"the curve {empty[0]!r} has no points; measure the accuracy at one time at least")
    # No display is needed, whatever backend the environment asks for.
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, (name, curve) in enumerate(baselines.items()):
        axes.plot(*_points(curve), color=_GREY, linestyle=_DASHES[i % len(_DASHES)], linewidth=1.4, label=name)
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(*_points(curve), color=_COLOURS[i % len(_COLOURS)], marker="o", markersize=4, label=name)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("t (0 noise, 1 text)")
    axes.set_ylabel("token accuracy")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    if curves or baselines:
        axes.legend(frameon=False)
    write_literally(axes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _points(curve: Mapping[float, float]) -> tuple[list[float], list[float]]:
    times = sorted(curve)
    return times, [curve[t] for t in times]
