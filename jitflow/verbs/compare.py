"""The command ``compare``: checkpoints or reports side by side, in one table and one picture."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from jitflow.errors import JitflowError, check_count
from jitflow.training.sections import PrecisionOptions, SamplingOptions
from jitflow.verbs.commandline import run_command

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonOptions:
    """What a comparison of models takes for alike, and what it writes.

    Attributes:
        may_differ: Entries of the protocol that may differ, such as guidance,steps; all for any.
        seeds: Samples of each model in the picture, with the seeds 0, 1, 2, ...; 0 draws none.
        out: Folder of the page and the picture; a numbered one beside it if it holds a comparison.
    """

    may_differ: str | None = None
    seeds: int = 8
    out: str = "outputs/comparison"


def compare(args: list[str]) -> None:
    """Compare checkpoints or reports, ``jitflow compare``."""
    run_command("compare", _compare, args)


def _compare(
    models: list[str],
    comparison: ComparisonOptions = ComparisonOptions(),
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 (frozen)
    compute: PrecisionOptions = PrecisionOptions(),  # noqa: B008 (frozen)
) -> None:
    """Compare checkpoints or reports of any application: scores, differences with intervals, samples of the same seeds.

    Writes comparison.html and comparison.png. Reports of different protocols are refused unless --may_differ names what
    differs. Options of a section can be given without it: --seeds 4, --guidance 2.

    Args:
        models: A report of `jitflow evaluate` or its folder, or a checkpoint or its run's folder, of each model.
        comparison: What may differ, and what is written.
        sampling: How the samples are drawn; as in the model's report, else the model's own settings by default.
        compute: Device, batch size and precision.
    """
    from jitflow.evaluation.comparison import compare as compare_models
    from jitflow.io.files import writable_folder
    from jitflow.io.results_folder import free_folder
    from jitflow.run.comparison_page import (
        PAGE_NAME,
        PICTURE_NAME,
        draw_samples,
        how_compared,
        score_cells,
        score_headings,
        write_page,
    )

    check_count("--seeds", comparison.seeds, least=0)
    given = sampling.settings()
    allowed = [name.strip() for name in (comparison.may_differ or "").split(",") if name.strip()]
    found = compare_models(models, may_differ=allowed)
    folder = writable_folder(free_folder(comparison.out, lambda taken: (taken / PAGE_NAME).exists()))
    for candidate in found.candidates:
        if candidate.report is None:
            log.warning("%s has no report; make one with: jitflow evaluate %s", candidate.name, candidate.checkpoint)
    console = Console(markup=False, soft_wrap=True)
    if found.scores:
        table = Table()
        for heading in score_headings(found):
            table.add_column(heading, overflow="fold")
        for score in found.scores:
            table.add_row(*score_cells(score))
        console.print(table)
        for line in how_compared(found):
            console.print(line, markup=False)
    if found.differences:
        table = Table("made differently", *(candidate.name for candidate in found.judged))
        for name, values in found.differences.items():
            table.add_row(name, *map(str, values))
        console.print(table)
    elif found.scores:
        console.print("same protocol: the scores can be compared")
    drawn = None
    here = [candidate for candidate in found.candidates if candidate.checkpoint is not None]
    if comparison.seeds and here:
        try:
            samples = draw_samples(here, comparison.seeds, compute, given)
            samples.save(folder / PICTURE_NAME)
            # Only what was saved is shown on the page.
            drawn = samples
        except JitflowError as error:
            # The scores need no samples.
            log.warning("no picture: %s", error)
    elif comparison.seeds:
        log.warning("no picture: none of the checkpoints is here")
    page = write_page(folder, found, drawn)
    console.print(f"look at {page}" + (f" and {folder / PICTURE_NAME}" if drawn is not None else ""), markup=False)
