"""Arguments of classes and functions that the sections of a recipe set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Arguments:
    """Arguments of a class or function that a recipe can set, with their defaults.

    Attributes:
        names: Names of the arguments.
        defaults: Defaults by name, if any.
        takes_all: Whether any other name is accepted too.
    """

    names: list[str]
    defaults: dict[str, Any]
    takes_all: bool


def arguments_of(function: Callable[..., Any]) -> Arguments:
    """List the arguments of a class or function, including settings passed as ``**settings``.

    The keywords ``**settings`` of a class with a ``settings_class`` are the fields of that dataclass.

    Args:
        function: The class or function.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    defaults = {p.name: p.default for p in named if p.default is not p.empty}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    settings = getattr(function, "settings_class", None)
    if not takes_all or settings is None:
        return Arguments(names, defaults, takes_all)
    further = [f for f in fields(settings) if f.init and f.name not in names]
    defaults.update({f.name: f.default for f in further if f.default is not MISSING})
    return Arguments([*names, *(f.name for f in further)], defaults, takes_all=False)
