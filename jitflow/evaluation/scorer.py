"""Scorers by which a sweep compares sampling settings; an application may define its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from jitflow.errors import ConfigError
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.frechet import find_statistics
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.protocol import protocol_card
from jitflow.evaluation.scores import extract, frechet_name, frechet_only, references_of
from jitflow.model import Model
from jitflow.training.precision import resolve_precision

OnProgress = Callable[[int, int], None]


class Scorer(Protocol):
    """Scorer of one model's samples under different sampling settings.

    Attributes:
        score_name: The score that settings are ordered by.
        lower_is_better: Whether a lower score is better.
        unit: Unit of the samples, such as ``"images"``.
        is_guided: Whether guidance is among the settings.
        card: Everything else the scores depend on, as plain values.
        options: Options of ``jitflow evaluate`` for the final score of the best settings.
    """

    score_name: str
    lower_is_better: bool
    unit: str
    is_guided: bool
    card: dict[str, Any]
    options: list[str]

    def __call__(self, plan: Plan, on_progress: OnProgress | None = None) -> dict[str, float]:
        """Generate samples and score them.

        Args:
            plan: The settings; its number of samples and its seed are the same in every call.
            on_progress: Called with (steps done, total steps).

        Returns:
            Scores by name, ``score_name`` among them.
        """
        ...


class FrechetScorer:
    """Scorer of images by their Frechet distance to real ones.

    Args:
        model: The model.
        base: Number of images, seed, precision and batch size.
        reference: See :func:`jitflow.evaluation.reference.load_reference`; None looks in ``fid_stats/``.
        extractor: See :func:`jitflow.evaluation.extractors.make_extractor`.

    Raises:
        ConfigError: If the number of images cannot be balanced over the classes.
    """

    lower_is_better = True
    unit = "images"
    is_guided = True

    def __init__(self, model: Model, base: Plan, *, reference: str | None, extractor: str) -> None:
        module = model.module
        base.check(module.num_classes)
        reference = reference or str(default_reference(model))
        self._model = model
        self._extractor = make_extractor(extractor)
        self._real = references_of(model, reference, {"": self._extractor}, batch_size=base.batch_size)[""]
        self._extractor.to(module.device)
        self.score_name = frechet_name(self._extractor)
        precision = resolve_precision(base.precision, module.device)
        self.card = protocol_card(
            {"precision": precision, "time_shift": module.time_shift, "device": module.device.type},
            base,
            num_classes=module.num_classes,
            checkpoint=model.source,
            extractor=self._extractor,
            reference=self._real.record,
        )
        self.options = ["--num_images", "50000", "--reference", reference, "--extractors", extractor]
        self.options += ["--precision", precision]

    def __call__(self, plan: Plan, on_progress: OnProgress | None = None) -> dict[str, float]:
        """Generate the plan's images and score them."""
        found = extract(self._model, plan, range(plan.num_images), {"": self._extractor}, on_progress)
        return frechet_only(found["features/"], found.get("logits/"), self._real, self.score_name)


def default_reference(model: Model) -> Path:
    """Find the reference statistics of a model's size and classes in ``fid_stats/``; ConfigError for rectangles."""
    _, height, width = model.module.codec.shape
    if height != width:
        raise ConfigError("there are no statistics of rectangular images to be found; pass --reference")
    return find_statistics(height, model.module.num_classes)
