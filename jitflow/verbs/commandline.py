"""Build command-line parsers from function signatures, for single commands and groups of commands."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse
import yaml
from rich.console import Console
from rich.table import Table

from jitflow.errors import ConfigError, MissingFileError, option_error, unknown_name
from jitflow.io.files import user_path
from jitflow.io.yaml_file import YamlLimitError, check_yaml, yaml_errors
from jitflow.verbs.words import full_name, spell_out

# Name under which the loader of command-line values is registered with jsonargparse.
WORDS = "words"


def run_group(
    name: str, commands: Mapping[str, Callable[..., Any]], args: list[str], *, positional: Collection[str] = ()
) -> Any:
    """Run one of a verb's commands with its options; without arguments, or with ``--help``, list the commands.

    Args:
        name: The verb.
        commands: Function of each command; one whose only parameter is ``args`` gets the arguments unparsed.
        args: Arguments after the verb.
        positional: Commands whose required arguments are positional; those of the others are options. So are those of
            a function that marks them, ``def command(run_dir, /)``.

    Returns:
        What the command returns; None after listing the commands.

    Raises:
        ConfigError: If the command does not exist.
    """
    if not args or args[0] in ("-h", "--help"):
        table = Table("command", "what it does", box=None, pad_edge=False)
        for command, function in commands.items():
            table.add_row(f"jitflow {name} {command}", (function.__doc__ or "").partition("\n")[0])
        console = Console(markup=False)
        console.print(table)
        console.print(f"\n`jitflow {name} <command> --help` lists a command's options.")
        return None
    if args[0] not in commands:
        raise unknown_name(f"{name} command", args[0], commands)
    function = commands[args[0]]
    if list(inspect.signature(function).parameters) == ["args"]:
        return function(args[1:])
    by_place = args[0] in positional or bool(_by_place(function))
    return run_command(f"{name} {args[0]}", function, args[1:], positional=by_place)


def run_command(
    name: str,
    function: Callable[..., Any],
    args: list[str],
    *,
    positional: bool = True,
    further: type | None = None,
) -> Any:
    """Parse a command's options, which its function's signature and docstring define, and run it.

    An argument that is a dataclass is a section, whose fields are dotted options (``--sampling.steps``); see
    :func:`jitflow.verbs.words.spell_out` for the accepted spellings.

    Args:
        name: Command name after ``jitflow``.
        function: Function to run.
        args: Arguments after the verb.
        positional: Whether required arguments are positional; else they are options. The only required argument of a
            command is always positional if it is a list, of all words that are no options: ``jitflow compare A B``.
        further: Dataclass whose fields become options too; the function receives an instance as ``further``.

    Returns:
        What the function returns.

    Raises:
        ConfigError: If an option is unknown or has an invalid value.
    """
    prog = f"jitflow {name}"
    listed = _takes_list(function)
    parser = command_parser(prog, function, positional=positional or listed, further=further)
    kinds = {**option_kinds(function), **(option_kinds(further) if further is not None else {})}
    spelt = spell_out(args, kinds)
    if listed:
        words = [word for word in spelt if not word.startswith("-")]
        spelt = [json.dumps(words), *(word for word in spelt if word.startswith("-"))]
    check_values(spelt)
    try:
        parsed = parser.instantiate(parser.parse_args(spelt))
    except argparse.ArgumentError as error:
        raise ConfigError(_as_typed(str(option_error(str(error), prog)), args, kinds)) from None
    given = dict(vars(parsed))
    if further is not None:
        given["further"] = further(**{field.name: given.pop(field.name) for field in dataclasses.fields(further)})
    return call(function, given)


def split_arguments(args: list[str], *described: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Split a command's arguments into positional ones, such as its checkpoint, and options in normalised form.

    Args:
        args: Arguments after the verb.
        described: Functions and dataclasses whose parameters are the options. An option of none of them takes the
            argument after it as its value.

    Returns:
        The positional arguments and the options, each in order.
    """
    kinds = {name: kind for function in described for name, kind in option_kinds(function).items()}
    words = spell_out(args, kinds)
    return [word for word in words if not word.startswith("-")], [word for word in words if word.startswith("-")]


def _as_typed(text: str, args: list[str], kinds: Mapping[str, str]) -> str:
    """Name options in an error message as the user typed them, with their section or without."""
    for arg in args:
        name = arg.partition("=")[0].removeprefix("--").replace("-", "_")
        text = re.sub(rf"--{re.escape(full_name(name, kinds))}(?![\w.])", f"--{name}", text)
    return text


def _takes_list(function: Callable[..., Any]) -> bool:
    """Whether the only required argument of a command is a list, such as one of files."""
    parameters = inspect.signature(function).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.name != "further"]
    return len(required) == 1 and str(required[0].annotation).startswith("list[")


def call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Run a command's function with the parsed options."""
    places = _by_place(function)
    return function(
        *(given[name] for name in places), **{name: value for name, value in given.items() if name not in places}
    )


def _by_place(function: Callable[..., Any]) -> list[str]:
    """Return the parameters that a function takes by place only."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]


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


def check_values(args: Sequence[str]) -> None:
    """Raise ConfigError if the value of an option is YAML that is too long or deep, or has too many values.

    The parser reads such a value several times, and shows it in its message.

    Args:
        args: Options in the form ``--name=value``.
    """
    for arg in args:
        flag, _, value = arg.partition("=")
        try:
            check_yaml(value)
        except YamlLimitError as error:
            raise ConfigError(f"{flag} cannot be read ({error})") from None
        except yaml.YAMLError:
            # Text, or an error that the parser explains.
            continue


def _load_value(text: str) -> Any:
    """Parse a command-line value as YAML, except that only ``null`` is None: ``~`` and ``#1`` stay text."""
    check_yaml(text)
    with yaml_errors():
        value = jsonargparse.get_loader("yaml")(text)
    return text if value is None and text.strip() != "null" else value


jsonargparse.set_loader(WORDS, _load_value, (yaml.YAMLError,))


def checkpoint_at(path: str | None) -> Path | None:
    """Return the checkpoint file that an argument names, itself or as a run's folder; None if there is none."""
    from jitflow.checkpoint.find import best_or_last

    if path is None:
        return None
    file = user_path(path)
    if not file.is_dir():
        return file if file.is_file() else None
    # A folder without checkpoints may be the value of an option.
    with suppress(MissingFileError):
        return best_or_last(file)[0]
    return None
