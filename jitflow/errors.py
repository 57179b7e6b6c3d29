"""Errors that a user can cause: one line each, naming the argument or file at fault and the remedy.

They also derive from the built-in error a caller would expect (``ValueError``, ``FileNotFoundError``),
so that code without knowledge of jitflow can catch them. The command line prints them without a
traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class JitflowError(Exception):
    """Base class of every error that a user can cause and correct."""


class ConfigError(JitflowError, ValueError):
    """An argument or a recipe has an invalid value."""


class DataError(JitflowError, ValueError):
    """A data set is unusable: empty, without classes, or holding a damaged file."""


class MissingFileError(JitflowError, FileNotFoundError):
    """A file or folder that must exist does not."""

    def __str__(self) -> str:
        # FileNotFoundError would print its arguments as (errno, text).
        return str(self.args[0]) if self.args else ""


class CheckpointError(JitflowError, RuntimeError):
    """A checkpoint is damaged, of another model, or unsafe to load."""


# Names listed in an error where none is near.
_SHOWN = 40


def unknown_name(kind: str, name: object, known: Iterable[str], *, hint: str = "") -> ConfigError:
    """Build the ConfigError for an unknown name of a model, solver or option, with the nearest known names.

    Args:
        kind: What the name stands for, such as ``"model"``.
        name: The name that was given.
        known: Every valid name.
        hint: Where to see the whole list, such as a command.

    Returns:
        The error, to be raised by the caller.
    """
    names = list(known)
    folded = {n.lower(): n for n in names}
    near = [folded[n] for n in difflib.get_close_matches(str(name).lower(), folded, n=3, cutoff=0.55)]
    listed = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    suggestion = f"did you mean {' or '.join(near)}?" if near else f"known: {listed}."
    return ConfigError(f"unknown {kind} {name!r}; {suggestion}{' ' + hint if hint else ''}")


@contextmanager
def optional_package(name: str, *, missing: str) -> Iterator[None]:
    """Turn a failed import of an optional package, such as the one of a tokenizer, into one ConfigError.

    A package that is not installed is told from one that is installed and fails, which installing does not mend.

    Args:
        name: Name of the package that the block imports.
        missing: What needs it, and how to install it.

    Raises:
        ConfigError: If it is missing, or fails while it is imported; the latter keeps the reason.
    """
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise ConfigError(missing) from None
        raise broken_package(name, error) from error


def broken_package(name: str, error: ImportError) -> ConfigError:
    """Return the error for a package, such as the one of a tokenizer, that is installed but fails to be imported.

    Args:
        name: Name of the package.
        error: What its import raised.
    """
    reason = " ".join(str(error).split())
    return ConfigError(f"the package {name} is installed, but cannot be imported ({reason}); repair or reinstall it")


MOST = 2**31 - 1
"""Most that a count may be where memory or time set no nearer limit."""
MOST_SAMPLES = 10**7
"""Most samples that one command draws, for each label: their seeds and labels are in memory."""
MOST_PROCESSES = 1024
"""Most processes that one command starts."""


def check_count(name: str, value: int, *, least: int = 1, most: int = MOST) -> None:
    """Raise ConfigError unless a count, such as a batch size, lies in its range.

    Args:
        name: Name of the argument.
        value: The count.
        least: Smallest that is allowed.
        most: Largest that is allowed.
    """
    if value < least:
        raise ConfigError(f"{name} must be at least {least}; got {value}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most}; got {value}")


def option_error(text: str, command: str) -> ConfigError:
    """Shorten jsonargparse's message about a command-line option to one line.

    Args:
        text: The message of jsonargparse.
        command: The command whose ``--help`` lists the options.

    Returns:
        The error, to be raised by the caller.
    """
    # For an option of a class jsonargparse names each level, the outermost first.
    option = ".".join(re.findall(r'key "([^"]+)"', text))
    expected_types = re.findall(r"Expected an? (?:<class '([^']+)'>|typing\.Literal\[(.*)\]|([^<\n]+))", text)
    kinds = [next(filter(None, kind)).rstrip(".").replace(", ", " or ") for kind in expected_types]
    base = re.search(r"subclass of (\w+)", text)
    kinds += [f"the name of a subclass of {base[1]}"] if base else []
    value = re.search(r"(?:Got value|Given value): (.*)", text)
    # A setting can also be in a file of its own, which nobody means who is told of this.
    named = (kind for kind in kinds if kind != "NoneType" and not kind.startswith("path but"))
    known = " or ".join(dict.fromkeys(named))
    message = f"--{option} must be {known}; got {value[1]}" if option and known and value else " ".join(text.split())
    return ConfigError(f"{message} ({command} --help lists all options)")


class WriteError(JitflowError, OSError):
    """A checkpoint, image or other file could not be written: the disk is full or read-only, or access is denied.

    It is also an OSError with its number, so that code that continues after a failed save can handle it as one.

    Args:
        number: The operating system's error number.
        reason: The operating system's message.
        message: The whole line for the user.
    """

    def __init__(self, number: int | None, reason: str, message: str) -> None:
        super().__init__(number, reason)
        self.message = message

    def __str__(self) -> str:
        return self.message
