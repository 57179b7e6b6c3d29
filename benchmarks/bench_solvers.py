"""Error of every solver and time grid by network evaluations, against 1,000 steps, on a trained model.

Run: ``python benchmarks/bench_solvers.py runs/demo/images/checkpoints/last.ckpt`` (``make demo`` trains it). All
solutions start from the same noise and have the same ``t_eps`` clamp and guidance interval, so only the
solver differs. Writes rows, all curves as ``results/solver_error.json`` and ``docs/images/solver_error.png``.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _timing import RESULTS, Report, rounded
from torch import Tensor

from jitflow.checkpoint.load import load_module
from jitflow.core.seeding import noise_from_seeds
from jitflow.core.solver import ODE_SOLVERS, SOLVERS, integrate
from jitflow.core.times import time_grid
from jitflow.io.files import atomic_path, write_json
from jitflow.training.module import FlowModule

REFERENCE_STEPS = 1000
EVALUATIONS = (20, 30, 36, 40, 60)
PLOT = Path(__file__).parents[1] / "docs" / "images" / "solver_error.png"
GRIDS: dict[str, Callable[[int], Tensor]] = {
    "uniform": time_grid,
    "shift 0.5": lambda n: time_grid(n, shift=0.5),
    "shift 0.7": lambda n: time_grid(n, shift=0.7),
    "shift 2": lambda n: time_grid(n, shift=2.0),
    # Dense at both ends, where guidance and the clamp start.
    "cosine": lambda n: 0.5 - 0.5 * torch.cos(math.pi * time_grid(n)),
}
COLOURS = {"euler": "#8a8f98", "heun": "#1f6fb4", "midpoint": "#3d9a6c", "multistep": "#e07b39"}
STYLES = {"uniform": "-", "cosine": "--", "shift 0.5": ":", "shift 0.7": "-.", "shift 2": (0, (1, 4))}


def steps_for(solver: str, evaluations: int) -> int:
    """Return the largest number of solver steps within a number of evaluations."""
    steps = evaluations // SOLVERS[solver].evaluations
    return steps + 1 if SOLVERS[solver].num_evaluations(steps + 1) <= evaluations else steps


def sampler(module: FlowModule, num_images: int) -> Callable[[str, Tensor], Tensor]:
    """Build a function (solver, times) -> images with fixed noise and labels."""
    labels = torch.arange(num_images, device=module.device) % module.num_classes
    x0 = module.noise_scale * noise_from_seeds(module.codec.shape, range(num_images), device=module.device)

    @torch.no_grad()
    def sample(solver: str, times: Tensor) -> Tensor:
        return integrate(lambda x, t: module._forward_sample(x, t, labels), x0, times, solver=solver)

    return sample


def measure(module: FlowModule, num_images: int) -> list[dict[str, Any]]:
    """Measure the errors of all solvers and grids, Heun 50's first: root mean square over pixels in the model space."""
    sample = sampler(module, num_images)
    exact = sample("multistep", time_grid(REFERENCE_STEPS))

    def row(solver: str, grid: str, steps: int) -> dict[str, Any]:
        error = (sample(solver, GRIDS[grid](steps)) - exact).square().mean().sqrt()
        found = {"solver": solver, "grid": grid, "steps": steps}
        found.update(evaluations=SOLVERS[solver].num_evaluations(steps), rms=rounded(float(error)))
        print(found, flush=True)
        return found

    rows = [row("heun", "uniform", 50)]
    return rows + [row(s, g, steps_for(s, n)) for g in GRIDS for s in ODE_SOLVERS for n in EVALUATIONS]


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Plot the error over evaluations, a colour for each solver and a line style for each grid."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    heun, rest = rows[0], rows[1:]
    for solver in ODE_SOLVERS:
        for grid in GRIDS:
            points = [r for r in rest if r["solver"] == solver and r["grid"] == grid]
            axes.plot(
                [r["evaluations"] for r in points],
                [r["rms"] for r in points],
                color=COLOURS[solver],
                linestyle=STYLES[grid],
                marker="o",
                markersize=3,
                label=solver if grid == "uniform" else None,
            )
    for grid, style in STYLES.items():
        axes.plot([], [], color="black", linestyle=style, label=grid)
    axes.axhline(heun["rms"], color="#8a8f98", linewidth=0.8)
    axes.annotate("Heun 50 (99 evaluations)", (EVALUATIONS[0], heun["rms"]), va="bottom", fontsize=9)
    axes.set_xscale("log")
    axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel("network evaluations")
    axes.set_ylabel("RMS difference to 1,000 steps")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, ncols=2, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def main() -> None:
    """Measure, print, write rows, curves and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--interval", type=float, nargs=2, default=(0.1, 1.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/<machine>.json")
    args = parser.parse_args()
    module = load_module(args.checkpoint).eval().to(args.device)
    module.cfg_scale, module.cfg_interval = args.guidance, tuple(args.interval)
    report = Report(device=args.device, out=args.out)
    with module.ema_weights():
        rows = measure(module, args.images)
    heun = rows[0]
    for solver in ODE_SOLVERS:
        few = [r for r in rows if r["solver"] == solver and r["evaluations"] <= 40]
        best = min(few, key=lambda r: r["rms"])
        name = f"error to {REFERENCE_STEPS} steps with at most 40 evaluations, {solver} / Heun 50 with 99"
        more = {key: best[key] for key in ("grid", "steps", "evaluations")}
        report.add(name, best["rms"], heun["rms"], "rms", images=args.images, **more)
    enough = [r for r in rows[1:] if r["rms"] <= heun["rms"]]
    if enough:
        least = min(enough, key=lambda r: (r["evaluations"], r["rms"]))
        name = "evaluations that reach the error of Heun 50"
        more = {key: least[key] for key in ("solver", "grid", "steps", "rms")}
        report.add(name, least["evaluations"], heun["evaluations"], "evaluations", images=args.images, **more)
    print(f"rows are in {report.out}")
    write_json(RESULTS / "solver_error.json", rows)
    plot(rows, PLOT, f"{getattr(module, 'model_name', 'model')}, {args.images} images, guidance {args.guidance:g}")


if __name__ == "__main__":
    main()
