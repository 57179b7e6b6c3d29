"""Requests for samples: classes, users or prompts turned into one condition for a batch."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from jitflow.core.condition import Condition
from jitflow.core.condition_table import class_of
from jitflow.errors import MOST_SAMPLES, ConfigError, unknown_name
from jitflow.io.file_tree import log_once
from jitflow.training.class_names import names_by_label

if TYPE_CHECKING:
    from jitflow.training.module import FlowModule

T = TypeVar("T")
_NUMBERS = re.compile(r"[\d\s-]*")
_RANGE = re.compile(r"([0-9]{1,99})(?:\s*-\s*([0-9]{1,99}))?")
Labels = str | Sequence[int | str] | Tensor
"""Labels or users, as numbers or names; or text such as ``"0,3,7-9"``, ``"cat,dog"`` or ``"all"``."""


@dataclass(frozen=True)
class Asked:
    """A request for samples: the condition of every sample, with names and captions.

    Attributes:
        condition: Condition of all samples. The label is always set, shape ``(N,)``; known parts and masks may have
            the shape of one sample, ``(1, *S)``, and then apply to all.
        names: Part of each sample's file name, such as ``cat`` or ``class3``; empty strings if there is none.
        captions: Caption of each sample, such as ``cat`` or ``class 3``; empty strings if there is none.
        conditions: Values of each sample's named conditions, plain values by name; empty for a model without any.
        start: Data in the model space, shape ``(N, *S)``, and the time in ``[0, 1)`` up to which noise is added:
            sampling starts from there. None starts from pure noise.
        origin: States that paths begin from in place of noise, shape ``(N, *S)``; None for noise.
        record: Further settings of the request besides labels, plain values.
        unit: Name of the samples in the plural, such as ``images``.
    """

    condition: Condition
    names: Sequence[str]
    captions: Sequence[str]
    conditions: Sequence[Mapping[str, Any]] = ()
    start: tuple[Tensor, float] | None = None
    origin: Tensor | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "samples"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> list[int]:
        """Label of each sample: its class, without further conditions."""
        assert self.condition.label is not None
        return class_of(self.condition.label).tolist()

    def part(self, index: slice) -> Asked:
        """Return the request for a slice of the samples."""

        def select(value: Tensor | None) -> Tensor | None:
            return value if value is None or len(value) == 1 < len(self) else value[index]

        condition = Condition(*map(select, (self.condition.label, self.condition.known, self.condition.mask)))
        start = None if self.start is None else (self.start[0][index], self.start[1])
        found = replace(self, names=self.names[index], captions=self.captions[index], conditions=self.conditions[index])
        return replace(found, condition=condition, start=start, origin=select(self.origin))


def read_labels(labels: Labels | None, module: FlowModule) -> list[int]:
    """Read the labels of a request; raise ConfigError if one is unknown or out of range.

    Args:
        labels: Numbers or names; text such as ``"0,3,7-9"``, ``"cat,dog"`` or ``"all"``; None for every class.
        module: The model.
    """
    if labels is None:
        # A model without classes only has the label "any class".
        return list(range(module.num_classes)) or [0]
    chosen: list[int] = []
    for y in [labels] if isinstance(labels, str) else labels:
        chosen += parse_labels(y, module.num_classes, module.class_names) if isinstance(y, str) else [int(y)]
    module.check_classes(torch.tensor(chosen, dtype=torch.int64))
    return chosen


def first_classes(module: FlowModule) -> str:
    """Return the first classes, four at most, as text that :func:`read_labels` reads: names, or else numbers."""
    labels = range(min(4, module.num_classes))
    named = names_by_label(module.class_names, labels)
    text = ",".join(named.values())
    # A name may read as a number or as several names.
    is_named = len(named) == len(labels) and _reads_as(text, _labels_by_name(module.class_names)) == list(labels)
    return (text if is_named else ",".join(map(str, labels))) or "0"


def repeat_each(values: Sequence[T], num: int | None, *, what: str) -> list[T]:
    """Repeat each label or prompt ``num`` times (None is once); raise ConfigError if ``num`` < 1 or there are none.

    Args:
        values: Values to repeat.
        num: Number of copies of each.
        what: Name of the argument, for errors.
    """
    if num is not None and (isinstance(num, bool) or not isinstance(num, int) or num < 1):
        raise ConfigError(f"num, the samples of each, must be a whole number of at least 1; got {num!r}")
    check_samples(len(values) * (num or 1), what)
    repeated = [value for value in values for _ in range(num or 1)]
    if not repeated:
        raise ConfigError(f"there is nothing to sample: {what} is empty")
    return repeated


def check_samples(num: int, what: str) -> None:
    """Raise ConfigError if a request is for more samples than a command draws, before any list of them is made.

    Args:
        num: Number of samples.
        what: Name of the argument that asks for them.
    """
    if num > MOST_SAMPLES:
        raise ConfigError(f"{what}: {num:.3g} samples are too many; at most {MOST_SAMPLES:,} are drawn at once")


def refuse_words(unknown: Iterable[str], application: str, *, takes: Sequence[str]) -> None:
    """Raise ConfigError for request arguments that an application does not accept.

    Args:
        unknown: Names of the unknown arguments.
        application: Name of the application.
        takes: Names of the accepted arguments.
    """
    for name in unknown:
        raise ConfigError(
            f"{name!r} means nothing to a model of {application}, which accepts {', '.join(takes)} (besides "
            "settings such as steps)"
        )


def parse_numbers(
    text: str, named: Mapping[str, int] = MappingProxyType({}), *, what: str, example: str = "0,3,7-9"
) -> list[range]:
    """Parse labels such as ``"0,3,7-9"`` or ``"cat,dog"`` into ranges.

    Args:
        text: Numbers, ranges of numbers, and names. What reads as a number is one, even if there is such a name.
        named: Number of each name; a name may hold commas.
        what: Name of the argument, for errors.
        example: Example of a valid value, for errors.

    Returns:
        Ranges, whose bounds are still to be checked: a range costs nothing, however long it is.

    Raises:
        ConfigError: If the text is invalid; with the nearest name if there are names.
    """
    parts, runs = deque(text.split(",")), []
    most_parts = 1 + max((name.count(",") for name in named), default=0)
    while parts:
        sizes = range(min(most_parts, len(parts)), 0, -1)
        words = {size: ",".join(islice(parts, size)).strip() for size in sizes}
        found = next(((size, run) for size, word in words.items() if (run := _range_of(word, named)) is not None), None)
        if found is None:
            if named and not _NUMBERS.fullmatch(words[1]):
                raise unknown_name(f"name in {what}", words[1], named)
            raise ConfigError(f"{what} must look like {example} or all; got {text!r}")
        runs.append(found[1])
        for _ in range(found[0]):
            parts.popleft()
    return runs


def num_numbers(runs: Iterable[range]) -> int:
    """Return how many labels are in ranges, which may be longer than a list can be."""
    return sum(max(0, run.stop - run.start) for run in runs)


def _range_of(word: str, named: Mapping[str, int]) -> range | None:
    if numbers := _RANGE.fullmatch(word):
        first, last = numbers.groups()
        return range(int(first), int(last or first) + 1)
    return range(named[word], named[word] + 1) if word in named else None


def parse_labels(text: str, num_classes: int, names: Sequence[str] = ()) -> list[int]:
    """Parse labels such as ``"0,3,7-9"``, ``"cat,dog"`` or ``"all"``.

    Args:
        text: The labels.
        num_classes: Number of classes, which as a label means "any class".
        names: Names of the classes by label.

    Returns:
        The labels; a number, or ``all``, that is also the name of another class is logged.

    Raises:
        ConfigError: If one is invalid, unknown or out of range.
    """
    named = _labels_by_name(names)
    if text.strip() == "all":
        if "all" in named:
            log_once(f"all means every class; the class named all is label {named['all']}", logging.WARNING)
        # A model without classes only has the label "any class".
        return list(range(num_classes)) or [0]
    runs = parse_numbers(text, named, what="labels")
    mistaken = next((word for word in map(str.strip, text.split(",")) if _is_mistaken(word, named)), None)
    hint = "" if mistaken is None else f"; the class named {mistaken} is label {named[mistaken]}"
    if any(end < 0 or end > num_classes for run in runs if run for end in (run[0], run[-1])) or not any(runs):
        raise ConfigError(
            f"labels {text!r}: this model has classes 0 to {num_classes - 1} ({num_classes}: any class){hint}"
        )
    check_samples(num_numbers(runs), "labels")
    if mistaken is not None:
        log_once(f"a number is a label, not a name: {mistaken} is taken as label {mistaken}{hint}", logging.WARNING)
    return [y for run in runs for y in run]


def _labels_by_name(names: Sequence[str]) -> dict[str, int]:
    """Return the label of each name, also without the spaces around it, which a request cannot have."""
    named = names_by_label(names, range(len(names)))
    return {name.strip(): y for y, name in named.items()} | {name: y for y, name in named.items()}


def _reads_as(text: str, named: Mapping[str, int]) -> list[int] | None:
    """Return the labels that a text of names stands for; None for all classes, or if it stands for none."""
    try:
        runs = [] if text == "all" else parse_numbers(text, named, what="labels")
        # Of one label more than there are; a name such as 0-999999999 stands for no list that could be one.
        return [y for run in runs for y in run[: len(named) + 1]] if text != "all" else None
    except ConfigError:
        return None


def _is_mistaken(word: str, named: Mapping[str, int]) -> bool:
    """Whether a word reads as labels, but is the name of another class."""
    return word in named and _range_of(word, named) != range(named[word], named[word] + 1)
