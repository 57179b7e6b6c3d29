"""The verb ``data``: commands of the applications that prepare or check data sets."""

from __future__ import annotations

from jitflow.applications import BUILT_IN, get_application, load_object
from jitflow.verbs.commandline import run_group


def data(args: list[str]) -> None:
    """Run a data-set command, ``jitflow data <command>``.

    Args:
        args: Arguments after the verb.
    """
    paths = {command: path for name in BUILT_IN for command, path in get_application(name).data_commands.items()}
    run_group("data", {name: load_object(path) for name, path in paths.items()}, args, positional=paths)
