"""Models side by side: samples of the same seeds in one picture, and an HTML page with it and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitflow import pictures
from jitflow.applications import load_object
from jitflow.errors import ConfigError
from jitflow.evaluation.comparison import Candidate, ComparedScore, Comparison
from jitflow.evaluation.intervals import Interval
from jitflow.evaluation.report import TRAINED_ON, format_interval, format_score
from jitflow.io.files import write_text
from jitflow.io.html_page import html_figure, html_page, html_section, html_table
from jitflow.model import load
from jitflow.training.samples import Samples, drawable_captions
from jitflow.training.sections import PrecisionOptions

log = logging.getLogger(__name__)
PICTURE_NAME, PAGE_NAME = "comparison.png", "comparison.html"
# Entries of a protocol card that are arguments of Model.sample.
_SAMPLING = ("guidance", "interval", "solver", "steps", "ema")


@dataclass(frozen=True)
class SideBySide:
    """Samples of several models with the same seeds and conditions.

    Attributes:
        row_names: Caption and seed of each sample.
        samples: The samples of each model by its name.
    """

    row_names: Sequence[str]
    samples: Mapping[str, Samples]

    def save(self, path: Path) -> None:
        """Draw the samples as a PNG: seeds in rows, models in columns."""
        columns = {name: samples.images() for name, samples in self.samples.items()}
        pictures.save_image(pictures.side_by_side(columns, self.row_names), path)

    def texts(self) -> list[list[str]]:
        """Return a row for each seed with the texts of all models; none for models of images."""
        columns = [samples.texts for samples in self.samples.values()]
        return [list(row) for row in zip(self.row_names, *columns, strict=True)] if all(columns) else []


def draw_samples(
    candidates: Sequence[Candidate], num: int, compute: PrecisionOptions, given: Mapping[str, Any]
) -> SideBySide:
    """Draw samples of several checkpoints with the same seeds and conditions.

    Args:
        candidates: The models; those without a checkpoint are left out.
        num: Number of samples of each, about; conditions are those that the first model's application shows first.
        compute: Device, batch size and precision.
        given: Sampling settings; others are those of the model's report, or its own.

    Returns:
        The samples.

    Raises:
        ConfigError: If the models are of different applications.
    """
    samples: dict[str, Samples] = {}
    asked: dict[str, Any] = {}
    application = ""
    for candidate in [candidate for candidate in candidates if candidate.checkpoint is not None]:
        assert candidate.checkpoint is not None
        model = load(candidate.checkpoint, device=compute.device)
        if not samples:
            application, subject = model.application.name, model.application.subject
            asked[subject.word] = load_object(subject.first)(model.module)
            each = len(model.ask(**asked))
            asked["num"] = -(-num // each)
        if model.application.name != application:
            raise ConfigError(f"{candidate.name} is a model of {model.application.name}, others are of {application}")
        card = candidate.report["protocol"] if candidate.report is not None else {}
        settings = {name: card[name] for name in _SAMPLING if card.get(name) is not None}
        # A matrix has a value for each of its rows; the picture takes the model's own.
        settings = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
        samples[candidate.name] = model.sample(
            **asked, **{**settings, **given}, batch_size=compute.batch_size, precision=compute.precision
        )
    first = next(iter(samples.values()))
    captions = drawable_captions(first.captions, first.labels)
    names = [", ".join(filter(None, (c, f"seed {seed}"))) for c, seed in zip(captions, first.seeds, strict=True)]
    return SideBySide(names, samples)


def score_headings(comparison: Comparison) -> list[str]:
    """Return the headings of the table of scores: each model, and each further model's difference to the first."""
    first, *others = [candidate.name for candidate in comparison.judged]
    return ["score", first, *(heading for name in others for heading in (name, f"{name} - {first}"))]


def score_cells(score: ComparedScore) -> list[str]:
    """Return the cells of a score's row, under :func:`score_headings`."""
    cells = [_cell(*part) for part in zip(score.values, score.intervals, score.trained_on, strict=True)]
    row = [score.name, cells[0]]
    for cell, value, change in zip(cells[1:], score.values[1:], score.changes, strict=True):
        row += [cell, _change(score.values[0], value, change)]
    return row


def _cell(value: float | None, interval: Interval | None, trained_on: bool) -> str:
    if value is None:
        return "-"
    ends = f" ({format_interval(interval)})" if interval is not None else ""
    return f"{format_score(value)}{ends}" + (f", {TRAINED_ON}" if trained_on else "")


def _change(first: float | None, second: float | None, interval: Interval | None) -> str:
    """Format a difference: with its interval, or that it is not significant, or that nobody can tell."""
    if first is None or second is None:
        return "-"
    if interval is None:
        return f"{second - first:+.3g}, no interval"
    ends = f"({interval.low:+.3g} to {interval.high:+.3g})"
    return f"{second - first:+.3g} {ends}" + (", not significant" if 0 in interval else "")


def how_compared(comparison: Comparison) -> list[str]:
    """Return lines that say how the intervals of the differences of scores were made."""
    changes = [change for score in comparison.scores for change in score.changes if change is not None]
    level = f"{max((change.level for change in changes), default=0.95):.0%}"
    methods = dict.fromkeys(change.method for change in changes)
    lines = [f"differences are to {comparison.judged[0].name}, with {level} intervals: {', '.join(methods) or 'none'}"]
    lines.append("of twenty differences between equal models about one looks significant")
    return lines


def write_page(out: Path, comparison: Comparison, drawn: SideBySide | None) -> Path:
    """Write the HTML page of a comparison: scores, differences in protocol, samples.

    Args:
        out: Its folder, with the picture of the samples.
        comparison: The comparison.
        drawn: The samples; None for no picture.

    Returns:
        The page.
    """
    sections = []
    if comparison.scores:
        table = html_table(map(score_cells, comparison.scores), score_headings(comparison))
        lines = "".join(html_table([(line,)]) for line in how_compared(comparison))
        sections.append(html_section("Scores", table + lines))
    names = [candidate.name for candidate in comparison.judged]
    rows = [[name, *map(str, values)] for name, values in comparison.differences.items()]
    sections.append(html_section("Made differently", html_table(rows, ["protocol", *names])))
    if drawn is not None:
        figure = html_figure((out / PICTURE_NAME).read_bytes(), "Seeds in rows, models in columns", wide=True)
        texts = html_table(drawn.texts(), ["", *drawn.samples])
        sections.append(html_section("Samples", f'<div class="figures">{figure}</div>{texts}'))
    sources = [
        (candidate.name, str(candidate.checkpoint or "no checkpoint here"), _evaluated(candidate))
        for candidate in comparison.candidates
    ]
    sections.append(html_section("Models", html_table(sources, ["", "checkpoint", "evaluation"])))
    page = out / PAGE_NAME
    write_text(page, html_page(" / ".join(candidate.name for candidate in comparison.candidates), "".join(sections)))
    return page


def _evaluated(candidate: Candidate) -> str:
    if candidate.report is None:
        return "no report"
    return f"{candidate.report['protocol'].get('num_images')} samples"
