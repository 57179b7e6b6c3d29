"""The general evaluation: images of balanced classes, scored against real ones, with a protocol card."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from jitflow.errors import ConfigError
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.request import EvaluationRequest
from jitflow.evaluation.scorer import default_reference
from jitflow.model import load

log = logging.getLogger(__name__)
_NUM_IMAGES = 50000


@dataclass(frozen=True)
class ImageJudge:
    """Scores drawn images against real ones.

    Attributes:
        extractor: inception, inception:FILE, digits, pixels, pixels:SIDE, timm:MODEL:FILE.
        processes: Processes that share the work, one GPU each; does not change the score.
        png: Also write every image.
        npz: Also write samples.npz for ADM's evaluator.
    """

    extractor: str = "inception"
    processes: int = 1
    png: bool = False
    npz: bool = False

    def __call__(self, request: EvaluationRequest) -> None:
        """Evaluate a checkpoint and print the scores; arguments as in :class:`jitflow.evaluation.request.Judge`."""
        if self.processes < 1:
            raise ConfigError(f"--processes must be at least 1; got {self.processes}")
        given = request.settings("guidance", "interval", "solver", "steps")
        model = load(request.checkpoint, device=request.compute.device)
        ema = request.ema if request.ema is not None else 1 if model.module.ema_params1 else 0
        num_images = _NUM_IMAGES if request.num_images is None else request.num_images
        compute = request.compute
        plan = Plan(
            num_images, request.seed, **given, ema=ema, precision=compute.precision, batch_size=compute.batch_size
        )
        plan.check(model.module.num_classes)
        reference = request.reference or str(default_reference(model))
        messages = Console(markup=False, stderr=True, soft_wrap=True)
        if request.dry_run:
            messages.print(
                f"would score {num_images} images of {request.checkpoint} against {reference} ({self.extractor}) into "
                f"{request.out}"
            )
            return
        report = evaluate(
            request.checkpoint,
            plan,
            reference=reference,
            extractor=self.extractor,
            out=request.out,
            processes=self.processes,
            keep_png=self.png,
            keep_npz=self.npz,
            model=model,
        )
        for warning in report["warnings"]:
            log.warning("warning: %s", warning)
        print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """Print the scores and the protocol card of a report."""
    scores = Table("score", "value")
    for name, value in report["metrics"].items():
        scores.add_row(name, f"{value:.4f}")
    card = Table("protocol", "value")
    for name, value in report["protocol"].items():
        card.add_row(name, str(value))
    console = Console(markup=False)
    console.print(scores)
    console.print(card)
