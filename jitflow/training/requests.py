"""What a command of an application asks for in its documents' words; the command line carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainingRequest:
    """A training in documented words.

    Attributes:
        words: Values by documented word; None for those that were not given.
        run_dir: Folder of the run that was named; None where none was.
        default_dir: Folder where nothing names one.
        resume: A checkpoint or a folder to go on with; ``"auto"`` for the run's folder.
        restart: Throw away what a training left in the folder.
        settings: Further settings by dotted name.
        ending: What is said at the end; ``{best}`` stands for the best checkpoint.
    """

    words: Mapping[str, Any]
    run_dir: str | None = None
    default_dir: str = "./output"
    resume: str | None = None
    restart: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    ending: str = "done: {best}"


@dataclass(frozen=True)
class DrawingRequest:
    """Samples in an application's own words.

    Attributes:
        checkpoint: File to load.
        asked: What to draw, see :attr:`jitflow.training.application.Application.condition`.
        settings: Settings of :meth:`jitflow.model.Model.sample`, from ``guidance`` to ``temperature``.
        out: Folder of the results.
        seed: Seed of the first sample; the others follow.
        ema: Average of the weights; None for the first one where there is one.
        batch_size: Samples at a time.
        device: Where to compute; None for the fastest there is.
        precision: Precision inside the network.
    """

    checkpoint: str
    asked: Mapping[str, Any]
    settings: Mapping[str, Any]
    out: str
    seed: int = 0
    ema: float | None = None
    batch_size: int = 64
    device: str | None = None
    precision: str = "32"
