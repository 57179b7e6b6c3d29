"""The commands ``convert`` and ``models``: options in, printed results out.

Each function with a docstring is one command; jsonargparse makes its options and help from the signature.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from jitflow.errors import ConfigError, option_error, unknown_name
from jitflow.nets.registry import get_variant, list_models


def convert(args: list[str]) -> None:
    """Run ``jitflow convert``."""
    run_command("convert", _convert, args)


def models(args: list[str]) -> None:
    """Run ``jitflow models``."""
    if args[:1] and not args[0].startswith("-"):
        args = [f"--pattern={args[0]}", *args[1:]]
    run_command("models", _models, args)


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


def _convert(
    source: str,
    target: str,
    ema: Literal["0", "1", "2", "all"] = "1",
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Convert a checkpoint between the JiT release's .pth, Lightning's .ckpt and .safetensors.

    The target's suffix is the format. No weight is lost on the way to .pth and .ckpt and back.

    Args:
        source: File to read.
        target: File to write.
        ema: For .safetensors, the weights to write: 1 or 2 for an average, 0 for the weights themselves, or all.
        overwrite: Replace a target that exists.
        dry_run: Read and describe the source, and write nothing.
    """
    from jitflow.checkpoint.convert import convert as convert_file
    from jitflow.checkpoint.formats import FORMATS, read_state

    if Path(target).suffix not in FORMATS:
        raise ConfigError(f"{target}: the suffix must be one of {', '.join(FORMATS)}")
    state = read_state(source) if dry_run else convert_file(source, target, ema=ema, overwrite=overwrite)
    held = ["weights"] + [n for n, v in (("EMA 1", state.ema1), ("EMA 2", state.ema2)) if v is not None]
    held += ["optimiser"] if state.optimizer is not None else []
    Console(stderr=True, soft_wrap=True).print(
        f"{source}: {state.settings.get('model_name', 'JiT')}, {', '.join(held)}, {state.epoch + 1} epochs done"
        + (f" -> {target}" if not dry_run else "")
    )


def _models(pattern: str = "*") -> None:
    """List networks: parameters, cost of one forward pass, tokens.

    Args:
        pattern: Which names to list, such as 'JiT-B*'.
    """
    from jitflow.inspect.describe import describe_model

    names = list_models(pattern)
    if not names:
        raise ConfigError(f"no model matches {pattern!r}; known: {', '.join(list_models())}")
    table = Table(title="networks")
    for heading in ("name", "image", "tokens", "parameters", "GMACs *", "origin"):
        # A name cut short in a narrow terminal would be of no use.
        table.add_column(
            heading, justify="left" if heading in ("name", "origin") else "right", no_wrap=heading == "name"
        )
    for name in names:
        facts: dict[str, Any] = describe_model(name)
        height, width = facts["img_size"]
        table.add_row(
            name,
            f"{height}x{width}",
            str(facts["tokens"]),
            f"{facts['parameters'] / 1e6:.2f}M",
            f"{facts['macs'] / 1e9:.3g}",
            get_variant(name).note,
        )
    console = Console()
    console.print(table)
    console.print("* multiply-accumulates of one image and one pass; the JiT paper prints these as Gflops.")
