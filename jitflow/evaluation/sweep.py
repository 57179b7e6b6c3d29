"""Sweep over guidance, EMA, interval, solver and steps, scored with the same noise."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jitflow import pictures
from jitflow.core.guidance import check_interval
from jitflow.core.solver import get_solver
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError, check_count
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.protocol import claim_folder
from jitflow.evaluation.scorer import Scorer
from jitflow.io.files import read_json, writable_folder, write_json, write_text
from jitflow.io.folder_lock import locked
from jitflow.io.progress import meter
from jitflow.model import Model

log = logging.getLogger(__name__)
_MOST_POINTS = 10_000


@dataclass(frozen=True)
class Grid:
    """Grid of sampling settings: the values along each axis.

    Attributes:
        guidances: Guidance scales.
        emas: EMAs of the weights: 1, 2, 0 for the weights themselves, or a relative width such as 0.1 for an EMA
            reconstructed after training.
        intervals: Times (low, high) between which guidance acts.
        solvers: Names of solvers.
        steps: Numbers of steps.
    """

    guidances: tuple[float, ...]
    emas: tuple[float, ...] = (1,)
    intervals: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    solvers: tuple[str, ...] = ("heun",)
    steps: tuple[int, ...] = (50,)

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values:
                raise ConfigError(f"the sweep has no {name} to try")
        check_count("the number of points of the sweep", len(self), most=_MOST_POINTS)
        for solver in self.solvers:
            get_solver(solver)
        for steps in self.steps:
            time_grid(steps)
        for interval in self.intervals:
            check_interval(interval)

    def __len__(self) -> int:
        return len(self.guidances) * len(self.emas) * len(self.intervals) * len(self.solvers) * len(self.steps)

    def plans(self, base: Plan) -> Iterator[Plan]:
        """Yield the sampling plans of the grid; guidance varies fastest."""
        axes = (self.emas, self.intervals, self.solvers, self.steps, self.guidances)
        for ema, interval, solver, steps, guidance in itertools.product(*axes):
            yield replace(base, ema=ema, interval=interval, solver=solver, steps=steps, guidance=guidance)


def parse_numbers(text: str, *, what: str) -> tuple[float, ...]:
    """Parse a list ``"1,2.5"`` or range ``"1.0:4.0:0.5"`` (first, last, step; both ends included) of numbers."""
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        first, last, step = (float(part) for part in text.split(":"))
        if step <= 0 or last < first:
            raise ValueError
        num = int((last - first) / step + 1e-9) + 1
    # Of a range that is endless or not a number, too.
    except (ValueError, OverflowError, ZeroDivisionError):
        raise ConfigError(f"{what} must look like 1,2.5 or 1.0:4.0:0.5 (first:last:step); got {text!r}") from None
    check_count(f"the number of values in {what}", num, most=_MOST_POINTS)
    return tuple(round(first + i * step, 10) for i in range(num))


def parse_intervals(text: str) -> tuple[tuple[float, float], ...]:
    """Parse guidance intervals such as ``"0:1,0.1:1"``; raise ConfigError if one is invalid or reversed."""
    try:
        pairs = [tuple(float(end) for end in part.split(":")) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--interval must look like 0:1,0.1:1 (low:high); got {text!r}") from None
    return tuple(check_interval(pair) for pair in pairs)  # type: ignore[arg-type]


def sweep(model: Model, grid: Grid, base: Plan, scorer: Scorer, out: str | Path) -> list[dict[str, Any]]:
    """Score every point of a grid of sampling settings; a repeated call skips points that are done.

    Args:
        model: The model.
        grid: The settings to try.
        base: Number of samples, seed, precision and batch size. The seeds, and so the noise, are the same at
            every point.
        scorer: Scorer of the points.
        out: Folder of ``points/``, ``sweep.csv`` and ``sweep.png``; a numbered one beside it if it holds points of
            another sweep.

    Returns:
        One row for each point: its settings and scores, the best first.

    Raises:
        ConfigError: If a setting is invalid.
    """
    writable_folder(out)
    for ema in grid.emas:
        model.check_ema(ema)
    out, _ = claim_folder(out, scorer.card)
    rows = []
    with locked(out), meter("sweep", len(grid) * base.num_images, unit=scorer.unit) as progress:
        for done, plan in enumerate(grid.plans(base)):
            path = out / "points" / f"{_key(plan)}.json"
            if not path.exists():
                before = done * base.num_images

                def on_progress(part: int, total: int, before: int = before) -> None:
                    progress.update(before + base.num_images * part / total)

                write_json(path, {**_settings(plan), **scorer(plan, on_progress)})
            rows.append(read_json(path))
            progress.update((done + 1) * base.num_images)
    rows.sort(key=lambda row: float(row[scorer.score_name]), reverse=not scorer.lower_is_better)
    _write_table(out / "sweep.csv", rows)
    _draw(out / "sweep.png", rows, grid, base.num_images, scorer)
    log.info("all points: %s, heat map: %s", out / "sweep.csv", out / "sweep.png")
    return rows


def final_command(checkpoint: str | Path, best: dict[str, Any], base: Plan, scorer: Scorer, *, out: str) -> str:
    """Return the command that scores the best point with enough samples for a final score."""
    arguments = ["jitflow", "evaluate", str(checkpoint), "--solver", best["solver"], "--steps", str(best["steps"])]
    if scorer.is_guided:
        low, high = best["interval"]
        arguments += ["--guidance", f"{best['guidance']:g}", "--interval", f"{low:g},{high:g}"]
    arguments += ["--ema", f"{best['ema']:g}", *scorer.options, "--out", out, "--seed", str(base.seed)]
    return shlex.join(arguments)


def _settings(plan: Plan) -> dict[str, Any]:
    names = ("guidance", "ema", "interval", "solver", "steps")
    return {name: asdict(plan)[name] for name in names}


def _key(plan: Plan) -> str:
    low, high = plan.interval or (0, 1)
    text = f"cfg{plan.guidance}_ema{plan.ema}_int{low}-{high}_{plan.solver}{plan.steps}"
    return re.sub(r"[^\w.\-]", "_", text)


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    names = list(rows[0])
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "interval": ":".join(f"{end:g}" for end in row["interval"])})
    write_text(path, text.getvalue())


def _draw(path: Path, rows: Sequence[dict[str, Any]], grid: Grid, num: int, scorer: Scorer) -> None:
    """Draw a heat map: guidance horizontally, other settings vertically; constant settings are not in the labels."""

    def name(ema: float, interval: tuple[float, float], solver: str, steps: int) -> str:
        parts = [
            (f"EMA {ema:g}" if ema else "weights", len(grid.emas)),
            (f"({interval[0]:g}, {interval[1]:g})", len(grid.intervals)),
            (solver, len(grid.solvers)),
            (f"{steps} steps", len(grid.steps)),
        ]
        return "  ".join(text for text, count in parts if count > 1) or "all"

    down = list(itertools.product(grid.emas, grid.intervals, grid.solvers, grid.steps))
    values = {
        (row["guidance"], row["ema"], tuple(row["interval"]), row["solver"], row["steps"]): row[scorer.score_name]
        for row in rows
    }
    pictures.heat_map(
        path,
        [[values[(guidance, *rest)] for guidance in grid.guidances] for rest in down],
        columns=[f"{guidance:g}" for guidance in grid.guidances],
        rows=[name(*rest) for rest in down],
        xlabel="guidance scale",
        title=f"{scorer.score_name.replace('_', ' ')}, {num} {scorer.unit} a point "
        f"({'lower' if scorer.lower_is_better else 'higher'} is better)",
    )
