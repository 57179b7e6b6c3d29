"""``jitflow <application> <command>``: an application's own commands, and the general verbs under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jitflow.applications import get_application, load_object
from jitflow.verbs.commandline import run_group
from jitflow.verbs.documented import documented_train
from jitflow.verbs.evaluate import evaluate
from jitflow.verbs.sample import sample


def application(name: str, args: list[str]) -> None:
    """Run a command of an application; without a word, or with ``--help``, list them.

    Args:
        name: The application's name.
        args: Words after it.

    Raises:
        ConfigError: If it has no such command.
    """
    chosen = get_application(name)
    general: dict[str, Callable[..., Any]] = {"sample": sample, "evaluate": evaluate}
    if chosen.documented is not None:
        general["train"] = _documented_train(name)
    own = {command: load_object(path) for command, path in chosen.commands.items()}
    run_group(name, {**own, **{command: verb for command, verb in general.items() if command not in own}}, args)


def _documented_train(name: str) -> Callable[[list[str]], None]:
    def train(args: list[str]) -> None:
        """Train in the words of the documents."""
        documented_train(name, args)

    return train
