"""What a demo is: a training on built-in data, with the steps before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console


@dataclass
class DemoState:
    """What the steps of a demo know and leave for those after them.

    Attributes:
        out: Folder of the results.
        seed: Seed of everything.
        settings: The demo's settings that are not the training's, by name.
        training: Complete settings of the training by dotted name, such as ``data.batch_size``.
        console: Where to say what is being done.
        checkpoint: Newest checkpoint of the training; None before it.
        best: Checkpoint of the lowest validation loss; None where there is none.
        losses: Training loss of each step.
        train_seconds: Seconds that the training took, over all its parts.
        metrics: What ``metrics.json`` will hold, as far as it is known.
    """

    out: Path
    seed: int
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    console: Console
    checkpoint: Path | None = None
    best: Path | None = None
    losses: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)


Step = Callable[[DemoState], None]


@dataclass(frozen=True)
class Demo:
    """A training on built-in data with what comes before and after it, run by ``jitflow demo``.

    Attributes:
        summary: What it does, in one sentence.
        recipe: Name of the recipe of its training.
        describe: Prints the result: called with the folder of the results and what ``metrics.json`` holds.
        overrides: Settings of the recipe by dotted name.
        settings: Settings that are not the training's, by name.
        quick: Settings by dotted name that replace those, ``settings.x`` for ``settings``: a run of seconds, for tests.
        training: Folder of the training inside that of the results; empty for the folder itself.
        before: Steps before the training, in order, by name.
        after: Steps after the training.
        writes: Files and folders that the steps write, by name, which a restart removes.
    """

    summary: str
    recipe: str
    describe: Callable[[Path, Mapping[str, Any]], None]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    training: str = ""
    before: Mapping[str, Step] = field(default_factory=dict)
    after: Mapping[str, Step] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
