"""The commands ``evaluate``, ``stats`` and ``sweep``, which score samples and print tables."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from jitflow.applications import load_object
from jitflow.errors import MOST_PROCESSES, ConfigError, check_count
from jitflow.evaluation.request import EvaluationRequest, Judge
from jitflow.io.files import existing_file, writable_folder
from jitflow.training.sections import ComputeOptions, PrecisionOptions, SamplingOptions
from jitflow.verbs.commandline import checkpoint_at, run_command, split_arguments

log = logging.getLogger(__name__)
GENERAL_JUDGE = "jitflow.evaluation.image_judge:ImageJudge"
_GUIDANCES = "1.0:4.0:0.5"


@dataclass(frozen=True)
class ReadOptions(ComputeOptions):
    """Device, batch size and worker processes for reading images.

    Attributes:
        num_workers: Processes that read images.
    """

    num_workers: int = 2


@dataclass(frozen=True)
class GridOptions:
    """Sampling settings to sweep over; the model's own by default.

    Attributes:
        guidance: Guidance scales, as first:last:step or a list such as 1,2.5; 1.0:4.0:0.5 for class-conditional models.
        ema: Averages: 1, 2, 0 for the weights, widths such as 0.05,0.1 for post-hoc averages.
        interval: Guidance intervals, such as 0:1,0.1:1.
        solver: Solvers, such as heun,multistep.
        steps: Numbers of steps, such as 25,50.
    """

    guidance: str | None = None
    ema: str = "1,2"
    interval: str | None = None
    solver: str | None = None
    steps: str | None = None


def evaluate(args: list[str]) -> None:
    """Evaluate a checkpoint with its application's judge, ``jitflow evaluate``."""
    path = evaluated_checkpoint(args)
    try:
        run_command("evaluate", _evaluate, args, further=_judge_of(checkpoint_at(path)))
    except ConfigError:
        from jitflow.checkpoint.formats import FORMATS

        # The options of an application are unknown without its checkpoint: that it is missing is the cause.
        if path is not None and Path(path).suffix in FORMATS:
            existing_file(path, what="checkpoint")
        raise


def evaluated_checkpoint(args: list[str]) -> str | None:
    """Return the checkpoint that the arguments of ``jitflow evaluate`` name, wherever it stands; None without one."""
    # Before the checkpoint is known, so are only the options that all have and those of the general judge.
    return next(iter(split_arguments(args, _evaluate, load_object(GENERAL_JUDGE))[0]), None)


def _judge_of(path: Path | None) -> type:
    """Return the judge of the checkpoint's application; the general judge without a checkpoint."""
    if path is not None:
        from jitflow.checkpoint.formats import read_state
        from jitflow.checkpoint.state import application_of

        own = application_of(read_state(path), path, otherwise="evaluate another checkpoint").judge
        if own:
            judge: type = load_object(own)
            return judge
    general: type = load_object(GENERAL_JUDGE)
    return general


def own_scorer(application: str) -> Callable[..., Any] | None:
    """Return the scorer of an application's sweeps; None if it has none of its own."""
    from jitflow.applications import get_application

    scorer = get_application(application).scorer if application else ""
    return load_object(scorer) if scorer else None


def stats(args: list[str]) -> None:
    """Compute reference statistics, ``jitflow stats``."""
    run_command("stats", _stats, args)


def sweep(args: list[str]) -> None:
    """Sweep over sampling settings, ``jitflow sweep``."""
    run_command("sweep", _sweep, args)


def _evaluate(
    checkpoint: str,
    num_images: int | None = None,
    reference: str | None = None,
    seed: int = 0,
    ema: float | None = None,
    out: str = "outputs/evaluation",
    dry_run: bool = False,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 (frozen)
    compute: PrecisionOptions = PrecisionOptions(),  # noqa: B008 (frozen)
    *,
    further: Judge,
) -> None:
    """Evaluate a checkpoint: draw samples, score them against real data, and write a report.

    Further options are those of the checkpoint's application: `jitflow evaluate CHECKPOINT --help` lists them. Options
    of a section can be given without it: --guidance 2, --steps 50. Run the same command
    again to resume an interrupted evaluation. `jitflow compare A B` puts two reports side by side.

    Args:
        checkpoint: File of any format, or a run's folder for its best checkpoint, else its last.
        num_images: Samples to draw, a multiple of the classes; 50000 images, 40 spectrograms of each user, 64 texts.
        reference: Real data: an .npz of statistics, a folder of images, digits or digits:val, by default fid_stats/ is
            searched; for text the training text, by default the recorded one; for micro-Doppler the real
            pictures.
        seed: Seed of the first sample; the others follow.
        ema: Average of the weights: 1 or 2; 0 for the weights; a width such as 0.1 for a post-hoc average. 1 by
            default, if the checkpoint has averages.
        out: Folder of the report; a numbered one beside it if it holds another evaluation.
        dry_run: Check everything, print what would be done, and do nothing.
        sampling: How samples are drawn; the model's own settings by default.
        compute: Device, batch size and precision.
        further: Judge of the checkpoint's application.
    """
    from jitflow.checkpoint.find import find_model

    settings = sampling.settings()
    further(
        EvaluationRequest(
            str(find_model(checkpoint)), num_images, reference, seed, ema, out, settings, compute, dry_run
        )
    )


def _stats(
    folder: str,
    img_size: int = 256,
    out: str | None = None,
    extractors: str = "inception",
    channels: Literal[1, 3] = 3,
    keep_features: int = 0,
    dry_run: bool = False,
    compute: ReadOptions = ReadOptions(),
) -> None:
    """Compute reference statistics of a folder of images: centre-cropped as in training, never flipped.

    Args:
        folder: Folder of images, searched recursively.
        img_size: Side in pixels.
        out: The .npz to write; fid_stats/<folder>_<img_size>.npz by default.
        extractors: As for `jitflow evaluate`, separated by commas; other tools read the statistics of the first.
        channels: 3 for colour, 1 for grey.
        keep_features: Number of images whose features are kept, spread evenly, for KID, precision and recall.
        dry_run: Check everything, print what would be done, and do nothing.
        compute: Device, batch size and worker processes.
    """
    import jitflow
    from jitflow.evaluation.extractors import make_extractor, split_extractors
    from jitflow.evaluation.reference import image_batches, reference_features
    from jitflow.evaluation.statistics_file import SpaceStatistics, write_statistics
    from jitflow.io.progress import meter
    from jitflow.model import default_device

    check_count("--keep_features", keep_features, least=0)
    check_count("--batch_size", compute.batch_size)
    check_count("--num_workers", compute.num_workers, least=0, most=MOST_PROCESSES)
    target = Path(out or f"fid_stats/{Path(folder).resolve().name}_{img_size}.npz")
    batches, num_images = image_batches(
        folder, img_size, channels, batch_size=compute.batch_size, num_workers=compute.num_workers
    )
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another --out, or remove it")
    networks = {name: make_extractor(spec) for name, spec in split_extractors(extractors).items()}
    console = Console(markup=False, stderr=True, soft_wrap=True)
    if dry_run:
        names = ", ".join(network.name for network in networks.values())
        console.print(f"would read {num_images} images of {folder} with {names} and write {target}")
        return
    writable_folder(target.parent)
    with meter("reading", num_images) as progress:
        found, checksum = reference_features(
            batches, networks, device=compute.device or default_device(), on_images=progress.update
        )
    record: dict[str, Any] = {
        "num_images": num_images,
        "img_size": img_size,
        "channels": channels,
        "pixels_sha256": checksum,
        "crop": "ADM centre crop, no flip",
        "jitflow": jitflow.__version__,
    }
    num_kept = min(keep_features, num_images)
    spaces = {
        name: SpaceStatistics(networks[name], real.statistics, real.spread(num_kept) if num_kept else None)
        for name, real in found.items()
    }
    write_statistics(target, spaces, record)
    for network in networks.values():
        if num_images <= network.dim:
            log.warning(
                "warning: %d images are too few for the %d feature dimensions of %s; use at least %d",
                num_images,
                network.dim,
                network.name,
                network.dim + 1,
            )
        console.print(f"{num_images} images, {network.name}, {network.dim} dimensions -> {target}")


def _sweep(
    checkpoint: str,
    num_images: int = 8000,
    reference: str | None = None,
    extractor: str = "inception",
    seed: int = 0,
    out: str = "outputs/sweep",
    dry_run: bool = False,
    grid: GridOptions = GridOptions(),
    compute: PrecisionOptions = PrecisionOptions(),  # noqa: B008 (frozen)
) -> None:
    """Score a grid of sampling settings on the same noise, and find the best.

    Writes sweep.csv and sweep.png. Run the same command again to resume: finished points are kept. Options of a
    section can be given without it: --guidance 1:3:0.5, --steps 25,50.

    Args:
        checkpoint: File of any format, or a run's folder for its best checkpoint, else its last.
        num_images: Samples at each point; for class-conditional models a multiple of the number of classes.
        reference: Real data, as for `jitflow evaluate`.
        extractor: A feature space, as for `jitflow evaluate`.
        seed: Seed of the first sample; the others follow.
        out: Folder of the results; a numbered one beside it if it holds another sweep.
        dry_run: Check everything, list the points, and do nothing.
        grid: Sampling settings to sweep over.
        compute: Device, batch size and precision.
    """
    from jitflow.core.guidance import check_interval
    from jitflow.evaluation.plan import Plan
    from jitflow.evaluation.scorer import FrechetScorer
    from jitflow.evaluation.sweep import Grid, final_command, parse_intervals, parse_numbers
    from jitflow.evaluation.sweep import sweep as run
    from jitflow.model import load
    from jitflow.training.trained_on import trained_on_note

    emas = parse_numbers(grid.ema, what="--ema")
    guidances = parse_numbers(grid.guidance, what="--guidance") if grid.guidance is not None else None
    chosen_steps = parse_numbers(grid.steps, what="--steps") if grid.steps is not None else None
    windows = parse_intervals(grid.interval) if grid.interval is not None else None
    model = load(checkpoint, device=compute.device)
    module = model.module
    if module.trained_on:
        log.warning("warning: %s", trained_on_note(module.trained_on))
    # Without classes there is no guidance to sweep over.
    defaults = parse_numbers(_GUIDANCES, what="--guidance") if module.num_classes else (float(module.cfg_scale),)
    points = Grid(
        guidances or defaults,
        emas,
        windows or (check_interval(module.cfg_interval),),
        tuple(grid.solver.split(",")) if grid.solver is not None else (module.sampling_method,),
        tuple(map(_whole, chosen_steps)) if chosen_steps else (module.num_sampling_steps,),
    )
    base = Plan(num_images, seed, precision=compute.precision, batch_size=compute.batch_size)
    make_scorer = own_scorer(module.application) or FrechetScorer
    scorer = make_scorer(model, base, reference=reference, extractor=extractor)
    console = Console(markup=False, stderr=True, soft_wrap=True)
    if dry_run:
        console.print(
            f"would score {len(points)} points of {num_images} {scorer.unit} by {scorer.score_name} into {out}"
        )
        return
    rows = run(model, points, base, scorer, out)
    table = Table(title=f"{len(rows)} points, {num_images} {scorer.unit} each, best first")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows[:12]:
        table.add_row(*(_format(value) for value in row.values()))
    Console(markup=False).print(table)
    command = final_command(model.source or checkpoint, rows[0], base, scorer, out=f"{out}_final")
    console.print(f"final evaluation of the best: {command}")


def _whole(number: float) -> int:
    if number % 1 or not math.isfinite(number):
        raise ConfigError(f"--steps must be whole numbers; got {number:g}")
    return int(number)


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"({', '.join(f'{v:g}' for v in value)})"
    return str(value)
