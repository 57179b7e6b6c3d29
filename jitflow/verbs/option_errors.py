"""Explain errors in the options of ``jitflow train``: the wrong option, the nearest right one, and what is accepted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jitflow.errors import ConfigError, option_error, unknown_name
from jitflow.run.arguments import arguments_of
from jitflow.run.recipe import find_class, forbidden_import

_FORBIDDEN = re.compile(r"Importing '([^']+)' is not allowed")


def explain_option_error(
    text: str,
    args: Sequence[str],
    recipe: Mapping[str, Any],
    options: Iterable[str],
    command: str,
    *,
    allow_import: Collection[str] = (),
) -> ConfigError:
    """Turn a parser's message into one that names the wrong option and the nearest right one.

    Args:
        text: The parser's message.
        args: Arguments of the command line.
        recipe: Settings of the recipe, whose classes take ``--model.x`` and ``--data.x``.
        options: All other valid options.
        command: The command whose ``--help`` lists the options.
        allow_import: Packages of further classes that the recipe may name.

    Returns:
        The error, to be raised by the caller.
    """
    # The parser may have been asked to import something that is no class, such as a function.
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        return forbidden_import(forbidden[1])
    known = list(options)
    for arg in args:
        option = arg.partition("=")[0]
        section, dot, name = option.removeprefix("--").partition(".")
        if not option.startswith("--"):
            continue
        if section in ("model", "data") and dot:
            takes = _arguments_of(recipe.get(section), allow_import)
            if takes and name.partition(".")[0] not in takes[1]:
                kind, names = takes
                near = difflib.get_close_matches(name.partition(".")[0].lower(), names, n=2, cutoff=0.6)
                meant = f"did you mean {' or '.join(f'--{section}.{n}' for n in near)}? " if near else ""
                return ConfigError(f"there is no option {option}; {meant}{kind} takes {', '.join(names)}")
        elif section not in ("model", "data") and option not in known:
            return unknown_name("option", option, known, hint=f"{command} --help lists all.")
    return option_error(text, command)


def _arguments_of(spec: Any, allow_import: Collection[str]) -> tuple[str, list[str]] | None:
    """Return the class name and arguments of a recipe's section; None if the section describes no class."""
    if not isinstance(spec, Mapping) or "class_path" not in spec:
        return None
    try:
        cls = find_class(spec, allow_import)
    except ConfigError:
        return None
    takes = arguments_of(cls)
    return None if takes.takes_all else (str(cls.__name__), takes.names)
