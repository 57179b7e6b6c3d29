"""Scorer of ``jitflow sweep`` for text models: the share of noisy text that sampling recovers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jitflow.apps.text.evaluation_settings import RECOVERY_TIME
from jitflow.apps.text.held_out import read_held_out
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.noise_recovery import recover_texts
from jitflow.errors import ConfigError
from jitflow.evaluation.plan import Plan
from jitflow.io.files import file_checksum
from jitflow.model import Model
from jitflow.training.precision import resolve_precision


class RecoveryScorer:
    """Scorer of sampling settings by the share of held-out characters that sampling recovers from noise.

    Args:
        model: The model.
        base: Number of texts, seed, precision and batch size; fewer texts if fewer are held out.
        reference: The training text; None takes the path in the checkpoint.
        extractor: Not used; it belongs to scores that compare features.

    Raises:
        ConfigError: If the model is not a text model.
        DataError: If none of the text is held out.
    """

    score_name = "text_recovery_accuracy"
    lower_is_better = False
    unit = "texts"
    is_guided = False

    def __init__(self, model: Model, base: Plan, *, reference: str | None, extractor: str) -> None:
        if not isinstance(model.module, TextLightningModule) or model.source is None:
            raise ConfigError("this sweep needs a checkpoint of text as colour")
        self._model = model
        self._ids = read_held_out(model.module, model.source, base.num_images, data_path=reference)
        self.card: dict[str, Any] = {
            "checkpoint": model.source,
            "checkpoint_sha256": file_checksum(model.source),
            "num_texts": len(self._ids),
            "seed": base.seed,
            "start_time": RECOVERY_TIME,
            "precision": resolve_precision(base.precision, model.module.device),
        }
        self.options = ["--precision", self.card["precision"]]
        self.options += [] if reference is None else ["--reference", reference]

    def __call__(self, plan: Plan, on_progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """Score sampling settings: add noise to held-out texts, sample from there, and compare the text."""
        _, scores = recover_texts(
            self._model,
            self._ids,
            RECOVERY_TIME,
            seeds=plan.seed,
            on_progress=on_progress,
            steps=plan.steps,
            solver=plan.solver,
            ema=int(plan.ema),
            batch_size=plan.batch_size,
            precision=plan.precision,
        )
        return {self.score_name: scores.accuracy, "exact": scores.exact}
