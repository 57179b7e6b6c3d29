"""Options from signatures: how a function becomes a command, and several a group."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_type_hints

import jsonargparse
import yaml
from rich.console import Console
from rich.table import Table

from jitflow.errors import ConfigError, option_error, unknown_name
from jitflow.verbs.words import full_name, spell_out

# Name under which jsonargparse knows how values of a command line are read.
WORDS = "words"


def run_group(
    name: str, commands: Mapping[str, Callable[..., Any]], args: list[str], *, positional: Collection[str] = ()
) -> Any:
    """Run one of several commands that share a verb; without a word, or with ``--help``, list the commands.

    Args:
        name: The verb.
        commands: Function of each command; one whose only argument is ``args`` is given the words as they are.
        args: Words after the verb.
        positional: Commands whose required arguments are given by place; the others' are options.

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
    if list(inspect.signature(function).parameters) == ["args"]:
        return function(args[1:])
    return run_command(f"{name} {args[0]}", function, args[1:], positional=args[0] in positional)


def run_command(
    name: str,
    function: Callable[..., Any],
    args: list[str],
    *,
    positional: bool = True,
    further: type | None = None,
) -> Any:
    """Make the options of a command from a function's signature and docstring, and run it.

    An argument that is a dataclass is a section, whose fields are dotted options (``--sampling.steps``); see
    :func:`jitflow.verbs.words.spell_out` for what people may write.

    Args:
        name: Words after ``jitflow``.
        function: What to run.
        args: Words after the verb.
        positional: Whether required arguments are given by place; else as options.
        further: Dataclass whose fields are options as well; the function is given it as ``further``.

    Returns:
        What the function returns.

    Raises:
        ConfigError: If an option is unknown or has a value that it cannot have.
    """
    prog = f"jitflow {name}"
    parser = command_parser(prog, function, positional=positional, further=further)
    kinds = {**option_kinds(function), **(option_kinds(further) if further is not None else {})}
    words = spell_out(args, kinds)
    try:
        asked = parser.instantiate_classes(parser.parse_args(words))
    except argparse.ArgumentError as error:
        raise ConfigError(_as_typed(str(option_error(str(error), prog)), args, kinds)) from None
    given = dict(vars(asked))
    if further is not None:
        given["further"] = further(**{field.name: given.pop(field.name) for field in dataclasses.fields(further)})
    return call(function, given)


def _as_typed(text: str, args: list[str], kinds: Mapping[str, str]) -> str:
    """An error in which options of sections are named as they were typed, with their section or without."""
    for word in args:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        text = text.replace(f"--{full_name(name, kinds)} ", f"--{name} ")
    return text


def call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Run a command's function with the options that were read."""
    return function(**given)


def command_parser(
    prog: str, function: Callable[..., Any], *, positional: bool = True, further: type | None = None
) -> Any:
    """Build the parser of a command's options; arguments as in :func:`run_command`."""
    description = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")[0].strip()
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=description, exit_on_error=False, parser_mode=WORDS, allow_abbrev=False
    )
    parser.add_function_arguments(
        function, as_group=False, as_positional=positional, skip={"further"}, fail_untyped=False
    )
    if further is not None:
        parser.add_class_arguments(further, as_group=False, as_positional=False)
    return parser


def option_kinds(function: Callable[..., Any]) -> dict[str, str]:
    """Return the annotation of every option of a command by name, those of sections with a dot."""
    return dict(_kinds(function, ""))


def _kinds(function: Callable[..., Any], prefix: str) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints.get(name)):
            yield from _kinds(hints[name], f"{prefix}{name}.")
        else:
            kind = parameter.annotation
            yield f"{prefix}{name}", kind if isinstance(kind, str) else inspect.formatannotation(kind)


def _load_word(text: str) -> Any:
    """Read a value of the command line by YAML's rules, but that only ``null`` is none: ``~`` and ``#1`` are text."""
    value = jsonargparse.get_loader("yaml")(text)
    return text if value is None and text.strip() != "null" else value


jsonargparse.set_loader(WORDS, _load_word, (yaml.YAMLError,))
