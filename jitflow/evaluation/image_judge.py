"""The general evaluation: images scored against real ones, in one feature space or a matrix of several."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from rich.console import Console

from jitflow.errors import ConfigError
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.extractors import make_extractor, split_extractors
from jitflow.evaluation.matrix import print_report
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.request import EvaluationRequest
from jitflow.evaluation.rows import ScoringOptions, evaluation_rows
from jitflow.evaluation.scorer import default_reference
from jitflow.model import load

log = logging.getLogger(__name__)
_NUM_IMAGES = 50000


@dataclass(frozen=True)
class ImageJudge:
    """Scores drawn images against real ones.

    Attributes:
        extractors: Feature spaces, separated by commas: inception, inception-clean, dinov2, mae, siglip, clip,
            convnext, digits, digits-rotation, pixels, pixels:SIDE, NAME:FILE, timm:MODEL:FILE.
        processes: Processes that share the work, one GPU each; does not change the score.
        png: Also write every image.
        npz: Also write samples.npz for ADM's evaluator.
        scoring: Further scores.
    """

    extractors: str = "inception"
    processes: int = 1
    png: bool = False
    npz: bool = False
    scoring: ScoringOptions = field(default_factory=ScoringOptions)

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
        if not self.scoring.row_words:
            plan.check(model.module.num_classes)
        reference = request.reference or str(default_reference(model))
        messages = Console(markup=False, stderr=True, soft_wrap=True)
        if request.dry_run:
            # What takes no long work: rows and labels, extractors and their weights.
            for row in evaluation_rows(plan, model.module, self.scoring.row_words).values():
                row.check(model.module.num_classes)
            for spec in split_extractors(self.extractors).values():
                make_extractor(spec)
            messages.print(
                f"would score {num_images} images of {request.checkpoint} against {reference} ({self.extractors}) into "
                f"{request.out}"
            )
            return
        report = evaluate(
            request.checkpoint,
            plan,
            reference=reference,
            extractors=self.extractors,
            out=request.out,
            scoring=self.scoring,
            processes=self.processes,
            keep_png=self.png,
            keep_npz=self.npz,
            model=model,
        )
        for warning in report["warnings"]:
            log.warning("warning: %s", warning)
        print_report(report)
