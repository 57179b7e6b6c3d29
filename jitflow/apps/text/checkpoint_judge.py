"""Judge of text as colour, for ``jitflow evaluate``."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from jitflow.apps.text.evaluation_settings import RECOVERY_TIME, TextEvaluation
from jitflow.apps.text.judge import PLOT_NAME, REPORT_NAME, evaluate
from jitflow.apps.text.tables import print_report
from jitflow.errors import ConfigError
from jitflow.evaluation.request import EvaluationRequest
from jitflow.io.results_folder import free_folder


@dataclass(frozen=True)
class TextJudge:
    """Judge of ``jitflow evaluate``: token accuracy on noisy held-out text, text recovery, and samples.

    Attributes:
        num_texts: Held-out windows to read.
        val_path: Held-out text; a part of the training text by default.
        recovery_time: Start time of text recovery.
    """

    num_texts: int = TextEvaluation.num_texts
    val_path: str | None = None
    recovery_time: float = RECOVERY_TIME

    def __call__(self, request: EvaluationRequest) -> None:
        """Evaluate a checkpoint and print tables; arguments as in :class:`jitflow.evaluation.request.Judge`."""
        if request.ema not in (None, 0, 1, 2):
            raise ConfigError(f"the evaluation of texts takes ema 0, 1 or 2; got {request.ema}")
        settings = TextEvaluation(
            self.num_texts,
            TextEvaluation.num_samples if request.num_images is None else request.num_images,
            request.seed,
            None if request.ema is None else int(request.ema),
            recovery_time=self.recovery_time,
            sampling=request.sampling,
            batch_size=request.compute.batch_size,
            precision=request.compute.precision,
        )
        console = Console(markup=False, stderr=True, soft_wrap=True)
        out = free_folder(request.out, lambda folder: (folder / REPORT_NAME).exists())
        if request.dry_run:
            console.print(
                f"would read {settings.num_texts} texts and generate {settings.num_samples} with {request.checkpoint} "
                f"into {out}",
                markup=False,
            )
            return
        report = evaluate(
            request.checkpoint,
            request.reference,
            out,
            settings,
            val_path=self.val_path,
            device=request.compute.device,
        )
        print_report(report)
        console.print(f"{out / REPORT_NAME}, {out / PLOT_NAME}", markup=False)
