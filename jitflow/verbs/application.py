"""``jitflow <application> <command>``: an application's own commands, and the general verbs under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jitflow.applications import get_application, load_object
from jitflow.checkpoint.formats import read_state
from jitflow.errors import CheckpointError
from jitflow.verbs.commandline import checkpoint_at, run_group
from jitflow.verbs.documented import documented_train
from jitflow.verbs.evaluate import evaluate, evaluated_checkpoint
from jitflow.verbs.sample import sample, sampled_checkpoint

Command = Callable[[list[str]], None]


def application(name: str, args: list[str]) -> None:
    """Run a command of an application; without arguments, or with ``--help``, list the commands.

    Args:
        name: The application's name.
        args: Arguments after it.

    Raises:
        ConfigError: If the application has no such command.
    """
    chosen = get_application(name)
    general: dict[str, Callable[..., Any]] = {}
    if chosen.documented is not None:
        general["train"] = _documented_train(name)
    general["sample"] = _restrict_to(
        name, sample, sampled_checkpoint, "Draw samples from a checkpoint: the same as `jitflow sample`."
    )
    general["evaluate"] = _restrict_to(
        name, evaluate, evaluated_checkpoint, "Evaluate a checkpoint: the same as `jitflow evaluate`."
    )
    own = {command: load_object(path) for command, path in chosen.commands.items()}
    run_group(name, {**own, **{command: verb for command, verb in general.items() if command not in own}}, args)


def _documented_train(name: str) -> Command:
    def train(args: list[str]) -> None:
        """Train a model with the options that the documents name."""
        documented_train(name, args)

    return train


def _restrict_to(name: str, verb: Command, find: Callable[[list[str]], str | None], summary: str) -> Command:
    """Restrict a verb to the checkpoints of one application, which ``find`` finds among its arguments."""

    def command(args: list[str]) -> None:
        path = checkpoint_at(find(args))
        if path is not None:
            owner = read_state(path).application
            if owner != name:
                raise CheckpointError(f"{path} is no model of {name}; it belongs to {owner or 'another class'}")
        verb(args)

    command.__doc__ = summary
    return command
