"""The errors that a user can cause, each one line that names the culprit and the way out.

They also derive from the built-in error a caller would expect (``ValueError``, ``FileNotFoundError``),
so that code which knows nothing of jitflow can still catch them. The command line prints them without a
traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class JitflowError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(JitflowError, ValueError):
    """An argument or a recipe holds a value that cannot work."""


class DataError(JitflowError, ValueError):
    """A data set is unusable: empty, without classes, or holding a damaged file."""


class MissingFileError(JitflowError, FileNotFoundError):
    """A path that must exist does not."""

    def __str__(self) -> str:
        # FileNotFoundError would print its arguments as (errno, text).
        return str(self.args[0]) if self.args else ""


class CheckpointError(JitflowError, RuntimeError):
    """A checkpoint is damaged, of another model, or not to be trusted."""


def unknown_name(kind: str, name: object, known: Iterable[str], *, hint: str = "") -> ConfigError:
    """Build the error for a name that is not in a list, with the nearest names.

    Args:
        kind: What was asked for, such as ``"model"``.
        name: The name that was given.
        known: Every name that would have worked.
        hint: Where to see the whole list, such as a command.

    Returns:
        The error, to be raised by the caller.
    """
    names = list(known)
    folded = {n.lower(): n for n in names}
    near = [folded[n] for n in difflib.get_close_matches(str(name).lower(), folded, n=3, cutoff=0.55)]
    suggestion = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}."
    return ConfigError(f"unknown {kind} {name!r}; {suggestion}{' ' + hint if hint else ''}")


def option_error(text: str, command: str) -> ConfigError:
    """Bring a message of jsonargparse about an option, which can be long, to one line.

    Args:
        text: Its message.
        command: The command whose ``--help`` lists the options.

    Returns:
        The error, to be raised by the caller.
    """
    # Options of a class are named inside out, one in the other.
    option = ".".join(re.findall(r'key "([^"]+)"', text))
    classes_or_words = re.findall(r"Expected an? (?:<class '([^']+)'>|typing\.Literal\[(.*)\]|([^<\n]+))", text)
    kinds = [next(filter(None, kind)).rstrip(".").replace(", ", " or ") for kind in classes_or_words]
    value = re.search(r"(?:Got value|Given value): (.*)", text)
    if option and kinds and value:
        known = " or ".join(dict.fromkeys(kind for kind in kinds if kind != "NoneType"))
        said = f"--{option} must be {known}; got {value[1]}"
    else:
        said = " ".join(text.split())
    return ConfigError(f"{said} ({command} --help lists all options)")
