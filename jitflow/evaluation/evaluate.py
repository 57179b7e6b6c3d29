"""Evaluate a model: compare generated images, one seed each and classes balanced, with real ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from jitflow.checkpoint.find import find_model
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.image_files import save_npz, save_png
from jitflow.evaluation.parts import EvaluationParts, make_missing
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.protocol import claim_folder, protocol_card, read_report
from jitflow.evaluation.scores import reference_of, sample_size_warnings, score
from jitflow.io.files import clear_leftovers, writable_folder, write_json
from jitflow.io.folder_lock import locked
from jitflow.model import Model, default_device, load
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)


def evaluate(
    checkpoint: str | Path,
    plan: Plan,
    *,
    reference: str | Path,
    extractor: str = "inception",
    out: str | Path,
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
        reference: See :func:`jitflow.evaluation.reference.load_reference`.
        extractor: See :func:`jitflow.evaluation.extractors.make_extractor`.
        out: Folder of ``report.json`` and, until it is finished, of the parts; a numbered one beside it if it holds
            another evaluation.
        device: Device; the fastest available by default.
        processes: Processes that share the parts; on GPUs, one for each.
        keep_png: Also write every image.
        keep_npz: Also write ``samples.npz`` (``arr_0`` uint8 NHWC, ``arr_1`` labels) for ADM's evaluator.
        model: The loaded model, if there is one.

    Returns:
        The report: ``metrics``, ``protocol``, ``warnings``.

    Raises:
        ConfigError: If a setting is invalid.
    """
    checkpoint = find_model(checkpoint)
    writable_folder(out)
    made = make_extractor(extractor)
    model = model or load(checkpoint, device=device or default_device())
    module = model.module
    plan.check(module.num_classes)
    model.check_ema(plan.ema)
    real = reference_of(model, reference, made, batch_size=plan.batch_size)
    card = protocol_card(
        # One image shows the effective settings, and that the model can sample at all.
        plan.part(model, range(1)).settings,
        num_images=plan.num_images,
        num_classes=module.num_classes,
        seed=plan.seed,
        checkpoint=checkpoint,
        extractor=made,
        reference=real.record,
    )
    out, card = claim_folder(out, card)
    with locked(out):
        finished = out / "report.json"
        if finished.exists() and not (keep_png or keep_npz):
            log.info("finished already; report: %s", finished)
            return dict(read_report(finished))
        keep_pixels = keep_png or keep_npz
        parts = EvaluationParts(str(checkpoint), plan, extractor, out / "parts", keep_pixels)
        make_missing(parts, model, made, processes)
        made_parts = parts.read()
        features = torch.cat([part["features"] for part in made_parts])
        logits = torch.cat([part["logits"] for part in made_parts]) if "logits" in made_parts[0] else None
        report = {
            "metrics": score(features, logits, real, made),
            "protocol": card,
            "warnings": [*sample_size_warnings(plan.num_images, made, real), *_start_warnings(module, plan.ema)],
            "trained_on": list(module.trained_on),
        }
        # Temporary files of an evaluation that was killed.
        for folder in (out, out / "images"):
            clear_leftovers(folder)
        if keep_png:
            names = model.ask(range(module.num_classes)).names
            save_png(out / "images", [part["pixels"] for part in made_parts], plan, names)
        if keep_npz:
            save_npz(out / "samples.npz", [part["pixels"] for part in made_parts], plan, module.num_classes)
        write_json(finished, report)
        log.info("report: %s", finished)
        parts.remove()
        return report


def _start_warnings(module: FlowModule, ema: float) -> list[str]:
    """Return a warning if the average that was evaluated still holds much of the initial weights."""
    warning = module.ema_history.start_warning(int(ema)) if ema in (1, 2) else None
    return [] if warning is None else [warning]
