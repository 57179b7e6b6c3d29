"""Definition of a demo: a training on built-in data, with the steps before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console


@dataclass
class DemoState:
    """State that the steps of a demo share: settings, checkpoint, losses and metrics.

    Attributes:
        out: Folder of the results.
        seed: Seed of all random generators.
        settings: The demo's settings besides those of the training, by name.
        training: Complete settings of the training by dotted name, such as ``data.batch_size``.
        console: Console for progress messages.
        checkpoint: Newest checkpoint of the training; None before training.
        best: Checkpoint of the lowest validation loss; None if there is none.
        base: Checkpoint of the demo that this one starts from; None if it starts from nothing.
        losses: Training loss of each step.
        train_seconds: Duration of the training in seconds, resumed parts included.
        metrics: Content of ``metrics.json`` so far.
    """

    out: Path
    seed: int
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    console: Console
    checkpoint: Path | None = None
    best: Path | None = None
    base: Path | None = None
    losses: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)


Step = Callable[[DemoState], None]


@dataclass(frozen=True)
class Demo:
    """A training on built-in data with steps before and after it, run by ``jitflow demo``.

    Attributes:
        summary: Summary of the demo, in one sentence.
        recipe: Name of the recipe of its training.
        describe: Prints the result; called with the folder of the results and the content of ``metrics.json``.
        overrides: Settings of the recipe by dotted name.
        settings: Settings besides those of the training, by name.
        quick: Replacements by dotted name (``settings.x`` for ``settings``) for a run of seconds, for tests.
        base: Name of the demo from whose model it starts, in the folder of that name beside its own; it is run first if
            it is not finished there. Empty to start from nothing.
        training: Folder of the training inside that of the results; empty for the folder itself.
        before: Steps before the training, in order, by name.
        after: Steps after the training.
        writes: Files and folders that the steps write, by name; a restart deletes them.
    """

    summary: str
    recipe: str
    describe: Callable[[Path, Mapping[str, Any]], None]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    training: str = ""
    before: Mapping[str, Step] = field(default_factory=dict)
    after: Mapping[str, Step] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
