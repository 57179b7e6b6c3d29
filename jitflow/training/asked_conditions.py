"""Requests for samples of classes, and of named conditions such as ``user=4,activity=run,speed=1.4``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from jitflow.core.condition import Condition
from jitflow.core.condition_table import ALL, Category
from jitflow.errors import ConfigError, unknown_name
from jitflow.io.file_tree import log_once
from jitflow.training.asked import Asked, Labels, check_samples, read_labels, refuse_words, repeat_each
from jitflow.training.class_names import file_parts, names_by_label

if TYPE_CHECKING:
    from jitflow.training.module import FlowModule

ANY = "any"
Conditions = str | Mapping[str, Any]
"""Values by name, one or a list of each; or text such as ``"user=4,activity=run,walk,speed=1.4"``."""


class AskedConditions(NamedTuple):
    """Conditions of a request.

    Attributes:
        classes: Values of the class, for the reader of classes; None where it is not named.
        codes: Codes of the further conditions, a row for each combination; a single empty one without any.
    """

    classes: list[Any] | None
    codes: list[tuple[float, ...]]


def read_conditions(conditions: Conditions | None, module: FlowModule, classes: object = None) -> AskedConditions:
    """Read the named conditions of a request.

    Args:
        conditions: The conditions; several values of a name ask for each, and all combinations are drawn. ``all``
            stands for every name of a category, ``any`` or a name that is left out for any value.
        module: The model.
        classes: The classes where another argument names them; not None excludes the class here.

    Returns:
        Classes and codes.

    Raises:
        ConfigError: If a name is unknown, a value invalid, or the class is named twice.
    """
    table, known = module.conditions, module.condition_names
    values = _parse(conditions) if isinstance(conditions, str) else _listed(conditions or {})
    for name in values:
        if name not in known:
            raise unknown_name("condition", name, known)
    named = values.pop(module.label_name, None)
    if named is not None and classes is not None:
        raise ConfigError(f"conditions name the {module.label_name}, which another argument does too; give one of them")
    if table is None:
        return AskedConditions(named, [()])
    each: list[list[float]] = []
    for name, condition in table.conditions.items():
        given: list[Any] = []
        for value in values.get(name, [None]):
            every = value == ALL and isinstance(condition, Category) and ALL not in condition.names
            given += condition.names if every and isinstance(condition, Category) else [value]
        is_any = [value is None or value == ANY for value in given]
        each.append(
            [condition.null if null else condition.code(name, value) for value, null in zip(given, is_any, strict=True)]
        )
    num = 1
    for codes in each:
        num *= len(codes)
    check_samples(num, "conditions")
    return AskedConditions(named, list(product(*each)))


def ask_for_classes(
    module: FlowModule,
    *,
    labels: Labels | None = None,
    num: int | None = None,
    conditions: Conditions | None = None,
    **unknown: Any,
) -> Asked:
    """Build a request for samples of classes.

    Args:
        module: The model.
        labels: Label of each sample, as number or name; text such as ``"0,3,7-9"``, ``"cat,dog"`` or ``"all"``; None
            for every class. ``num_classes`` means "any class".
        num: Number of samples of each label, one after the other; None for one.
        conditions: Named conditions, see :func:`read_conditions`.
        unknown: Arguments of other applications.

    Returns:
        The request.

    Raises:
        ConfigError: If there is no label, one is unknown or out of range, or an argument is unknown.
    """
    refuse_words(unknown, module.application or type(module).__name__, takes=("labels", "num", "conditions"))
    asked = read_conditions(conditions, module, labels)
    chosen = read_labels(labels if asked.classes is None else asked.classes, module)
    named = names_by_label(module.class_names, chosen)
    captions = [named.get(y, f"class {y}") for y in range(module.num_classes)]
    found = ask_for_labels(
        *(module, chosen, asked.codes, num),
        what="labels",
        names=file_parts(module.class_names, module.num_classes),
        captions=[*captions, named.get(module.num_classes, "any class")],
    )
    return replace(
        found, record={**({"classes": {str(y): name for y, name in named.items()}} if named else {}), **found.record}
    )


def ask_for_labels(
    module: FlowModule,
    classes: Sequence[int],
    codes: Sequence[tuple[float, ...]],
    num: int | None,
    *,
    what: str,
    names: Sequence[str],
    captions: Sequence[str],
) -> Asked:
    """Build a request for samples of classes under conditions; combinations that were never trained are logged.

    Args:
        module: The model.
        classes: Classes to draw.
        codes: Codes of the conditions to draw each of them with.
        num: Number of samples of each, one after the other; None for one.
        what: Name of the argument with the classes, for errors.
        names: Part of the file name of each class.
        captions: Caption of each class.

    Returns:
        The request.

    Raises:
        ConfigError: If there is nothing to draw, or too much.
    """
    check_samples(len(classes) * len(codes), what)
    pairs = [(y, code) for y in classes for code in codes]
    chosen = repeat_each(pairs, num, what=what)
    table = module.conditions
    if table is None:
        classes = [y for y, _ in chosen]
        return Asked(Condition(torch.tensor(classes)), [names[y] for y in classes], [captions[y] for y in classes])
    values = {code: table.values(code) for code in codes}
    shown = {(y, code): ", ".join([captions[y], *_words(values[code])]) for y, code in pairs}
    problems = (
        {}
        if module.combinations is None
        else {
            shown[y, code]: problem
            for y, code in pairs
            if (problem := module.combinations.problem((y, *code), module.num_classes))
        }
    )
    for caption, problem in problems.items():
        log_once(f"{caption}: {problem}; it is drawn all the same", logging.WARNING)
    label = torch.tensor([[y, *code] for y, code in chosen], dtype=torch.float32)
    return Asked(
        Condition(label=module.check_labels(label).cpu()),
        [names[y] for y, _ in chosen],
        [shown[pair] + (" (unseen)" if shown[pair] in problems else "") for pair in chosen],
        conditions=[values[code] for _, code in chosen],
        record={"unseen": problems} if problems else {},
    )


def _words(values: Mapping[str, str | float]) -> list[str]:
    """Return the values of conditions as words of a caption: a category's name, a quantity with its own."""
    return [value if isinstance(value, str) else f"{name} {value:g}" for name, value in values.items()]


def _listed(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: list(value) if isinstance(value, list | tuple) else [value] for name, value in values.items()}


def _parse(text: str) -> dict[str, list[Any]]:
    """Parse conditions such as ``"user=4,activity=run,walk"``; a part without a name is another value of the last."""
    found: dict[str, list[Any]] = {}
    name = ""
    for part in text.split(","):
        before, equals, value = part.partition("=")
        name = before.strip() if equals else name
        word = (value if equals else part).strip()
        if not name or not word:
            raise ConfigError(f"conditions must look like activity=run,speed=1.4; got {text!r}")
        found.setdefault(name, []).append(word)
    return found
