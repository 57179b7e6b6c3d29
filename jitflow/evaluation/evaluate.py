"""Evaluate a model: compare generated images, one seed each, with real ones, in one feature space or several."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitflow.checkpoint.find import find_model
from jitflow.errors import ConfigError
from jitflow.evaluation.extractors import make_extractor, split_extractors
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.frechet_samples import MANY
from jitflow.evaluation.image_copies import THUMBNAILS, ImageCopies, find_copies
from jitflow.evaluation.image_files import save_npz, save_png
from jitflow.evaluation.matrix import write_matrix
from jitflow.evaluation.parts import EvaluationParts, make_missing
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.protocol import claim_folder, merge_cards, protocol_card, read_report
from jitflow.evaluation.reference import VALIDATION, Reference
from jitflow.evaluation.rows import ScoringOptions, evaluation_rows
from jitflow.evaluation.scores import Scores, equal_count, fdr, frechet_name, references_of, sample_size_warnings, score
from jitflow.io.files import clear_leftovers, read_json, writable_folder, write_json
from jitflow.io.folder_lock import locked
from jitflow.io.progress import meter
from jitflow.model import Model, default_device, load
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
# Entries of the protocol card that differ between feature spaces; the others differ between rows, if at all.
_OF_SPACE = (
    *("extractor", "extractor_sha256", "preprocessing", "reference"),
    *("validation", "validation_compared_images"),
)


@dataclass(frozen=True)
class Space:
    """A feature space in which images are compared.

    Attributes:
        extractor: The feature extractor.
        real: Training images in it.
        validation: Images that the model was not trained on; None without any.
    """

    extractor: FeatureExtractor
    real: Reference
    validation: Reference | None = None


def evaluate(
    checkpoint: str | Path,
    plan: Plan,
    *,
    reference: str | Path,
    extractors: str = "inception",
    out: str | Path,
    scoring: ScoringOptions = ScoringOptions(),  # noqa: B008 (frozen)
    device: str | None = None,
    processes: int = 1,
    keep_png: bool = False,
    keep_npz: bool = False,
    model: Model | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint and write a report; a repeated call resumes an interrupted evaluation.

    Args:
        checkpoint: The model's file, or its run's folder.
        plan: The sampling plan.
        reference: See :func:`jitflow.evaluation.reference.load_references`.
        extractors: Names of extractors, separated by commas; see
            :func:`jitflow.evaluation.extractors.make_extractor`.
        out: Folder of ``report.json`` and, until it is finished, of the parts; a numbered one beside it if it holds
            another evaluation.
        scoring: Rows of a matrix, validation data (those that belong to ``reference`` by default), further scores.
        device: Device; the fastest available by default.
        processes: Processes that share the parts; on GPUs, one for each.
        keep_png: Also write every image.
        keep_npz: Also write ``samples.npz`` (``arr_0`` uint8 NHWC, ``arr_1`` labels) for ADM's evaluator.
        model: The loaded model, if there is one.

    Returns:
        The report: ``metrics`` by name, ``intervals`` by the same names, ``protocol``, ``warnings``. With several rows
        or extractors a name is ``ROW/SPACE/SCORE``, such as ``guided,balanced/dinov2/frechet_distance``.

    Raises:
        ConfigError: If a setting is invalid.
    """
    checkpoint = find_model(checkpoint)
    writable_folder(out)
    specs = split_extractors(extractors)
    made = {name: make_extractor(spec) for name, spec in specs.items()}
    model = model or load(checkpoint, device=device or default_device())
    plans = evaluation_rows(plan, model.module, scoring.row_words)
    for row_plan in plans.values():
        row_plan.check(model.module.num_classes)
        model.check_ema(row_plan.ema)
    real = references_of(model, reference, made, batch_size=plan.batch_size)
    held_out: dict[str, Reference] = {}
    if validation := scoring.validation or VALIDATION.get(str(reference)):
        held_out = references_of(model, validation, made, batch_size=plan.batch_size)
    spaces = {name: Space(extractor, real[name], held_out.get(name)) for name, extractor in made.items()}
    card = {**_card(model, checkpoint, plans, spaces), **({"infinity": True} if scoring.infinity else {})}
    out, card = claim_folder(out, card)
    with locked(out):
        finished = out / "report.json"
        keep_pixels = keep_png or keep_npz
        if finished.exists() and not keep_pixels:
            log.info("finished already; report: %s", finished)
            return dict(read_report(finished))
        trained_on = list(model.module.trained_on)
        report: dict[str, Any] = {
            "metrics": {},
            "intervals": {},
            "protocol": card,
            "warnings": [],
            "trained_on": trained_on,
        }
        for row, row_plan in plans.items():
            alone = len(plans) == 1
            folder = out / "parts" if alone else out / "parts" / row
            parts = EvaluationParts(str(checkpoint), row_plan, specs, folder, keep_pixels)
            done = out / "rows" / f"{row}.json"
            if keep_pixels or not done.exists():
                make_missing(parts, model, made, processes)
                _save_images(out if alone else out / row, parts, model, png=keep_png, npz=keep_npz)
                before = f"{row}/" if len(plans) > 1 or len(spaces) > 1 else ""
                copies = find_copies(parts, real, held_out, model, out if alone else out / row)
                write_json(done, _score_row(parts, spaces, copies, before, scoring))
            parts.remove()
            found = read_json(done)
            report["metrics"] |= found["metrics"]
            report["intervals"] |= found["intervals"]
        for space in spaces.values():
            report["warnings"] += sample_size_warnings(plan.num_images, space.extractor, space.real)
        if scoring.row_words and not held_out:
            report["warnings"].append("without validation data there are no ratios and no FDr; --validation names some")
        report["warnings"] += _bias_warnings(report["metrics"], plan.num_images)
        report["warnings"] += _start_warnings(model.module, plans)
        # Temporary files of an evaluation that was killed.
        clear_leftovers(out)
        write_matrix(report, out)
        write_json(finished, report)  # Last: a repeated call only reads it.
        log.info("report: %s", finished)
        for row in plans:
            (out / "rows" / f"{row}.json").unlink()
        for left in ("rows", "parts"):
            with suppress(OSError):
                (out / left).rmdir()
        return report


def _check_validation(spaces: Mapping[str, Space]) -> None:
    """Raise ConfigError if validation and training images are the same, whose distance 0 nothing can be divided by."""
    for space in spaces.values():
        records = [space.real.record, space.validation.record if space.validation is not None else {}]
        first, second = ({name: value for name, value in record.items() if name != "path"} for record in records)
        if first == second:
            raise ConfigError(
                "--validation names the same images as --reference; give images that the model was not trained on"
            )


def _card(model: Model, checkpoint: Path, plans: Mapping[str, Plan], spaces: Mapping[str, Space]) -> dict[str, Any]:
    """Build the protocol card; raises ConfigError if validation and other images cannot be compared."""
    _check_validation(spaces)
    # One image of each row shows the effective settings, and that the model can sample at all.
    settings = {row: plan.part(model, range(1)).settings for row, plan in plans.items()}

    def card(row: str, space: Space) -> dict[str, Any]:
        plan = plans[row]
        found = protocol_card(
            settings[row],
            plan,
            num_classes=model.module.num_classes,
            checkpoint=checkpoint,
            extractor=space.extractor,
            reference=space.real.record,
        )
        if space.validation is not None:
            found["validation"] = space.validation.record
            found["validation_compared_images"] = equal_count(plan.num_images, space.validation)
        return found

    first_row, first_space = next(iter(plans)), next(iter(spaces.values()))
    by_row = merge_cards({row: card(row, first_space) for row in plans})
    by_space = merge_cards({name: card(first_row, space) for name, space in spaces.items()})
    return {key: by_space[key] if key in _OF_SPACE else value for key, value in by_row.items()}


def _score_row(
    parts: EvaluationParts,
    spaces: Mapping[str, Space],
    copies: Mapping[str, ImageCopies],
    row: str,
    scoring: ScoringOptions,
) -> dict[str, Any]:
    """Score a set of samples in every feature space, one after the other, since each fills the memory.

    Args:
        parts: The features of the samples.
        spaces: The feature spaces.
        copies: Copies of training images, in each feature space and among the thumbnails; empty if unknown.
        row: What stands before the names of the scores, ``ROW/``; empty for one row and feature space.
        scoring: Further scores.
    """
    found: dict[str, Scores] = {}
    with meter(f"scoring {row}".rstrip(" /"), len(spaces), unit="spaces") as progress:
        for done, (name, space) in enumerate(spaces.items()):
            features = parts.read(f"features/{name}")
            assert features is not None
            found[name] = score(
                features,
                parts.read(f"logits/{name}"),
                space.real,
                "frechet_distance" if row else frechet_name(space.extractor),
                validation=space.validation,
                infinity=scoring.infinity,
            )
            progress.update(done + 1)
    ratios = {name: scores.ratio for name, scores in found.items() if scores.ratio is not None}
    if row and ratios:
        found[f"fdr{len(ratios)}"] = fdr(ratios)
    for name, copied in copies.items():
        found.setdefault(name, Scores()).add("copies", copied.copies.share, copied.copies.interval)
        if copied.validation is not None:
            found[name].add("copies_validation", copied.validation.share, copied.validation.interval)
    metrics, intervals = {}, {}
    for name, scores in found.items():
        before = f"{row}{name}/" if row or name == THUMBNAILS else ""
        metrics.update({before + score: value for score, value in scores.metrics.items()})
        intervals.update({before + score: interval.record() for score, interval in scores.intervals.items()})
    return {"metrics": metrics, "intervals": intervals}


def _save_images(out: Path, parts: EvaluationParts, model: Model, *, png: bool, npz: bool) -> None:
    """Write the images of a set of samples as PNG or in one array, or neither."""
    num_classes = max(1, model.module.num_classes)
    if png:
        # Temporary files of an evaluation that was killed.
        clear_leftovers(out / "images")
        save_png(out / "images", parts.read_each("pixels"), parts.plan, model.ask(range(num_classes)).names)
    if npz:
        save_npz(out / "samples.npz", parts.read_each("pixels"), parts.plan, num_classes)


def _bias_warnings(metrics: Mapping[str, float], num_images: int) -> list[str]:
    """Say how much the Frechet distances of few images are too large, by the jackknife."""
    if num_images >= MANY:
        return []
    shares: dict[str, float] = {}
    for name, bias in metrics.items():
        distance = name.removesuffix("_bias")
        if name != distance and metrics[distance] > 0:
            # ROW/SPACE/SCORE, or a score alone.
            space = distance.split("/")[-2] if "/" in distance else distance
            shares[space] = max(shares.get(space, 0.0), bias / metrics[distance])
    if not shares:
        return []
    found = ", ".join(f"{space} {share:.0%}" for space, share in shares.items())
    return [
        f"Frechet distances of {num_images} images are too large by about this share of their values: {found}; of "
        f"{MANY} images they would be by {num_images / MANY:.2g} of that. Compare only equally many images"
    ]


def _start_warnings(module: FlowModule, plans: Mapping[str, Plan]) -> list[str]:
    """Return a warning for each average that was evaluated and still holds much of the initial weights."""
    averages = sorted({int(plan.ema) for plan in plans.values() if plan.ema in (1, 2)})
    found = [module.ema_history.start_warning(average) for average in averages]
    return [warning for warning in found if warning is not None]
