"""What an evaluation of images scores: its rows, which are sets of samples, and further scores."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, replace
from typing import Any

from jitflow.errors import unknown_name
from jitflow.evaluation.plan import Plan
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
ALL_ROWS = "guided,unguided,balanced,random"
# Each word sets a field of the plan; words of one kind are alternatives, and kinds are combined.
_GUIDANCE: dict[str, dict[str, Any]] = {"guided": {}, "unguided": {"guidance": 1.0}}
_LABELS: dict[str, dict[str, Any]] = {"balanced": {"labels": "balanced"}, "random": {"labels": "random"}}
_AVERAGES: dict[str, dict[str, Any]] = {"weights": {"ema": 0}, "ema1": {"ema": 1}, "ema2": {"ema": 2}}
_WORDS = {**_GUIDANCE, **_LABELS, **_AVERAGES}


@dataclass(frozen=True)
class ScoringOptions:
    """Which scores an evaluation of images makes beside those of the samples as they are asked for.

    Attributes:
        matrix: Score guided and unguided samples with balanced and random labels, each in every feature space.
        rows: Rows of the matrix: a choice of guided,unguided,balanced,random,weights,ema1,ema2.
        validation: Real data that the model was not trained on, for ratios of Frechet distances; as --reference.
        infinity: Also extrapolate Frechet distances to infinitely many images.
    """

    matrix: bool = False
    rows: str | None = None
    validation: str | None = None
    infinity: bool = False

    @property
    def row_words(self) -> str:
        """The rows as :func:`evaluation_rows` takes them; empty for the samples as they are asked for."""
        return self.rows or (ALL_ROWS if self.matrix else "")


def evaluation_rows(plan: Plan, module: FlowModule, words: str) -> dict[str, Plan]:
    """List the sets of samples of an evaluation.

    Args:
        plan: The plan as it was asked for.
        module: The model, for its guidance scale.
        words: Which rows, separated by commas: ``guided``, ``unguided``; ``balanced``, ``random`` (labels);
            ``weights``, ``ema1``, ``ema2``. Every combination is a row; a kind without a word is as in ``plan``.
            Empty for the plan itself, alone.

    Returns:
        The plan of each row by name, such as ``guided,balanced``.

    Raises:
        ConfigError: If a word is unknown.
    """
    asked = [word.strip() for word in words.split(",") if word.strip()]
    for word in asked:
        if word not in _WORDS:
            raise unknown_name("row", word, list(_WORDS), hint="Rows are given as guided,unguided,balanced,random.")
    scale = module.cfg_scale if plan.guidance is None else plan.guidance
    is_guided = module.num_classes > 0 and scale != 1
    guidance = [word for word in asked if word in _GUIDANCE] or ["guided" if is_guided else "unguided"]
    if "guided" in guidance and not is_guided:
        log.info("the guidance scale is 1, so there is no guided row; --guidance sets another")
        guidance = ["unguided"]
    labels = [word for word in asked if word in _LABELS] or [plan.labels]
    averages = [word for word in asked if word in _AVERAGES]
    rows = {}
    for combination in itertools.product(guidance, labels, averages or [""]):
        given = [word for word in combination if word]
        settings = {name: value for word in given for name, value in _WORDS[word].items()}
        rows[",".join(given)] = replace(plan, **settings)
    return rows
