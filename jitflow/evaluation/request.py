"""What ``jitflow evaluate`` was asked for, whatever the application of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jitflow.errors import ConfigError
from jitflow.training.sections import PrecisionOptions


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation of a checkpoint, as the options of ``jitflow evaluate`` ask for it.

    Attributes:
        checkpoint: File to evaluate.
        num_images: Samples to draw; None for the application's own number.
        reference: Real data to compare with; None for the application's own.
        seed: Seed of the first sample; the others follow.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves; a width for one made after training. None
            is 1 where there is one.
        out: Folder of the report.
        sampling: Settings of sampling that were given, as :meth:`jitflow.model.Model.sample` takes them.
        compute: Where and how precisely to compute.
        dry_run: Check everything, say what would be done, and do nothing.
    """

    checkpoint: str
    num_images: int | None = None
    reference: str | None = None
    seed: int = 0
    ema: float | None = None
    out: str = "outputs/evaluation"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    compute: PrecisionOptions = field(default_factory=PrecisionOptions)
    dry_run: bool = False

    def settings(self, *names: str) -> dict[str, Any]:
        """Return the sampling settings of these names, None for those that were not given.

        Raises:
            ConfigError: If another setting was given, which the evaluation does not use.
        """
        unused = sorted(set(self.sampling) - set(names))
        if unused:
            raise ConfigError(f"--{unused[0]} is not a setting of this evaluation")
        return {name: self.sampling.get(name) for name in names}


class Judge(Protocol):
    """Evaluates checkpoints of one application; a dataclass whose fields are options of ``jitflow evaluate``."""

    def __call__(self, request: EvaluationRequest) -> None:
        """Evaluate a checkpoint, print the scores, and write a report.

        Args:
            request: What was asked for.

        Raises:
            JitflowError: If something that was asked for cannot work; before long work.
        """
        ...
