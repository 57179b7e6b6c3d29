"""Options from signatures: how a function becomes a command, and several a group."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jitflow.errors import option_error, unknown_name


def run_group(
    name: str, commands: Mapping[str, Callable[..., Any]], args: list[str], *, positional: Collection[str] = ()
) -> Any:
    """Run one of several commands that share a verb; without a word, or with ``--help``, list them.

    Args:
        name: The verb.
        commands: Function of each command.
        args: Words after the verb.
        positional: Commands whose required arguments are given by place, as in those that begin with a checkpoint; the
            others' are options.

    Returns:
        What the command returns; None for a list.

    Raises:
        ConfigError: If there is no such command.
    """
    if not args or args[0] in ("-h", "--help"):
        table = Table("command", "what it does", box=None, pad_edge=False)
        for command, function in commands.items():
            table.add_row(f"jitflow {name} {command}", (function.__doc__ or "").partition("\n")[0])
        console = Console()
        console.print(table)
        console.print(f"\n`jitflow {name} <command> --help` lists a command's options.")
        return None
    if args[0] not in commands:
        raise unknown_name(f"{name} command", args[0], commands)
    function = commands[args[0]]
    by_place = args[0] in positional or next(iter(inspect.signature(function).parameters), "") == "checkpoint"
    return run_command(f"{name} {args[0]}", function, args[1:], positional=by_place)


def run_command(name: str, function: Callable[..., Any], args: list[str], *, positional: bool = True) -> Any:
    """Make the options of a command from a function's signature and docstring, and run it.

    Args:
        name: Words after ``jitflow``.
        function: What to run.
        args: Words after the verb.
        positional: Whether required arguments are given by place; else as options.

    Returns:
        What the function returns.
    """
    import jsonargparse

    prog = f"jitflow {name}"

    # People write --num-images as well as --num_images.
    args = [
        "--" + word[2:].partition("=")[0].replace("-", "_") + "".join(word[2:].partition("=")[1:])
        if word.startswith("--")
        else word
        for word in args
    ]
    parameters = inspect.signature(function).parameters.values()
    switches = {
        f"--{p.name}": str(p.annotation) in ("bool", "bool | None")
        for p in parameters
        if p.default is False or (p.default is None and str(p.annotation).startswith("bool"))
    }
    lists = [f"--{p.name}" for p in parameters if str(p.annotation).startswith("list[")]
    args = _spell_out(_join_lists(args, lists), switches)
    try:
        return jsonargparse.auto_cli(function, args=args, prog=prog, as_positional=positional, exit_on_error=False)
    except argparse.ArgumentError as error:
        raise option_error(str(error), prog) from None


def _join_lists(args: list[str], lists: list[str]) -> list[str]:
    """Let ``--ids 1 2 3`` mean ``--ids=[1,2,3]``, which is how people write it."""
    joined: list[str] = []
    values: list[str] | None = None
    for word in [*args, "--"]:
        if values is not None and not word.startswith("--"):
            values.append(word)
            continue
        if values is not None:
            joined.append(f"{joined.pop()}=[{','.join(values)}]" if values else joined.pop())
        values = [] if word in lists else None
        joined.append(word)
    return joined[:-1]


def _spell_out(args: list[str], switches: dict[str, bool]) -> list[str]:
    """Let a bare ``--switch`` mean ``--switch=true``, which is how people write it.

    Args:
        args: Words of a command line.
        switches: Options that are false by default or have none, and whether true and false are all that they can be.
    """

    def is_bare(word: str, after: str) -> bool:
        if word not in switches:
            return False
        if switches[word]:
            return after.lower() not in ("true", "false", "yes", "no", "null")
        return not after or after.startswith("-")

    following = [*args, ""][1:]
    return [f"{word}=true" if is_bare(word, after) else word for word, after in zip(args, following, strict=True)]
