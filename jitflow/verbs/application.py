"""``jitflow <application> <command>``: an application's own commands, and the general verbs under its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jitflow.applications import get_application, load_object
from jitflow.checkpoint.formats import read_state
from jitflow.errors import CheckpointError
from jitflow.verbs.commandline import run_group
from jitflow.verbs.documented import documented_train
from jitflow.verbs.evaluate import evaluate
from jitflow.verbs.sample import sample

Command = Callable[[list[str]], None]


def application(name: str, args: list[str]) -> None:
    """Run a command of an application; without a word, or with ``--help``, list the commands.

    Args:
        name: The application's name.
        args: Words after it.

    Raises:
        ConfigError: If it has no such command.
    """
    chosen = get_application(name)
    general: dict[str, Callable[..., Any]] = {}
    if chosen.documented is not None:
        general["train"] = _documented_train(name)
    general["sample"] = _of_this(name, sample, "Draw samples from a checkpoint: the same as `jitflow sample`.")
    general["evaluate"] = _of_this(name, evaluate, "Evaluate a checkpoint: the same as `jitflow evaluate`.")
    own = {command: load_object(path) for command, path in chosen.commands.items()}
    run_group(name, {**own, **{command: verb for command, verb in general.items() if command not in own}}, args)


def _documented_train(name: str) -> Command:
    def train(args: list[str]) -> None:
        """Train a model, in the words of the documents."""
        documented_train(name, args)

    return train


def _of_this(name: str, verb: Command, summary: str) -> Command:
    """A verb that takes checkpoints of one application only."""

    def command(args: list[str]) -> None:
        path = next((word for word in args if not word.startswith("-")), None)
        if path is not None and Path(path).expanduser().is_file():
            theirs = read_state(path).application
            if theirs != name:
                raise CheckpointError(f"{path} is no model of {name}; it is of {theirs or 'another class'}")
        verb(args)

    command.__doc__ = summary
    return command
