"""Training curves of a run's report, plotted."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from jitflow import pictures
from jitflow.io.html_page import html_figure
from jitflow.run.curves import Curve

_TITLES = {
    "train/loss": "Training loss",
    "val/loss": "Loss on held-out data",
    "val/loss_ema": "Loss on held-out data, first EMA",
    "train/lr": "Learning rate",
    "eval/fid": "FID",
    "eval/held_out": "Frechet distance of the held-out judge",
    "train/grad_norm": "Norm of the gradient, before clipping",
    "train/weight_norm": "Norm of the weights",
    "train/ema1_norm": "Norm of the first EMA",
    "train/ema2_norm": "Norm of the second EMA",
    "perf/images_per_sec": "Images per second",
    "perf/memory_gib": "Largest memory so far, GiB",
    "perf/mfu": "Share of the device's peak (MFU)",
}
# Prefix of the curves of loss by time, which TrainingWatch logs.
_BY_TIME = "loss_at/"
# Losses, learning rate and scores; the others are folded away.
_SHOWN = ("train/loss", "train/lr", "val/", "eval/")


def curve_figures(curves: Mapping[str, Curve]) -> str:
    """Return the markup of training curves: losses, learning rate and scores; all others are folded away.

    Args:
        curves: Points by name, as :func:`jitflow.run.curves.read_curves` gives them.
    """
    known = [name for name in _TITLES if name in curves]
    others = [name for name in curves if name not in _TITLES and not name.startswith(_BY_TIME)]
    shown: list[str] = []
    folded: list[str] = []
    for name in known + others:
        points = curves[name]
        # A single point is not a curve.
        if len(points) > 1:
            title = _TITLES.get(name, name)
            image = html_figure(_plot(points, title), f"{title}, {len(points)} points, last {points[-1][1]:.4g}")
            (shown if name.startswith(_SHOWN) else folded).append(image)
    by_time = {name.removeprefix(_BY_TIME): curves[name] for name in curves if name.startswith(_BY_TIME)}
    if any(len(points) > 1 for points in by_time.values()):
        caption = "Training loss by time; 0 is noise, 1 is data"
        folded.insert(0, html_figure(_plot_together(by_time, caption), caption))
    more = f"<details><summary>{len(folded)} more curves</summary>{_side_by_side(folded)}</details>" if folded else ""
    return _side_by_side(shown) + more


def _side_by_side(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _plot_together(curves: Mapping[str, Curve], title: str) -> bytes:
    """Plot curves of one kind in one figure, from the first (dark) to the last (light)."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(sorted(curves.items())):
        axes.plot(*zip(*points, strict=True), color=colormaps["viridis"](0.9 * i / len(curves)), label=name)
    axes.set_yscale("log")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    pictures.write_literally(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plot(points: Sequence[tuple[int, float]], title: str) -> bytes:
    steps, values = zip(*points, strict=True)
    smooth = min(50, max(3, len(values) // 10)) if len(values) >= 20 else 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curve.png"
        pictures.plot_curve(
            path, steps, values, xlabel="optimiser step", ylabel=title.lower(), title=title, smooth=smooth
        )
        return path.read_bytes()
