"""Requests for samples: classes, users or prompts turned into one condition for a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from jitflow.core.condition import Condition
from jitflow.errors import ConfigError

if TYPE_CHECKING:
    from jitflow.training.module import FlowModule

T = TypeVar("T")
Numbers = str | Sequence[int] | Tensor


@dataclass(frozen=True)
class Asked:
    """A request for samples: the condition of every sample, with names and captions.

    Attributes:
        condition: Condition of all samples. The label is always set, shape ``(N,)``; known parts and masks may have
            the shape of one sample, ``(1, *S)``, and then apply to all.
        names: Part of each sample's file name, such as ``class3``; empty strings if there is none.
        captions: Caption of each sample, such as ``class 3``; empty strings if there is none.
        start: Data in the model space, shape ``(N, *S)``, and the time in ``[0, 1)`` up to which noise is added:
            sampling starts from there. None starts from pure noise.
        record: Further settings of the request besides labels, plain values.
        unit: Name of the samples in the plural, such as ``images``.
    """

    condition: Condition
    names: Sequence[str]
    captions: Sequence[str]
    start: tuple[Tensor, float] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "samples"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> list[int]:
        """Label of each sample."""
        assert self.condition.label is not None
        return [int(y) for y in self.condition.label]

    def part(self, index: slice) -> Asked:
        """Return the request for a slice of the samples."""

        def select(value: Tensor | None) -> Tensor | None:
            return value if value is None or len(value) == 1 < len(self) else value[index]

        condition = Condition(*map(select, (self.condition.label, self.condition.known, self.condition.mask)))
        start = None if self.start is None else (self.start[0][index], self.start[1])
        return replace(self, condition=condition, names=self.names[index], captions=self.captions[index], start=start)


def ask_for_classes(
    module: FlowModule, *, labels: Numbers | None = None, num: int | None = None, **unknown: Any
) -> Asked:
    """Build a request for samples of classes.

    Args:
        module: The model.
        labels: Label of each sample; text such as ``"0,3,7-9"`` or ``"all"``; None for every class. ``num_classes``
            means "any class".
        num: Number of samples of each label, one after the other; None for one.
        unknown: Arguments of other applications.

    Returns:
        The request.

    Raises:
        ConfigError: If there is no label, one is out of range, or an argument is unknown.
    """
    refuse_words(unknown, module.application or type(module).__name__, takes=("labels", "num"))
    chosen = repeat_each(read_labels(labels, module), num, what="labels")
    return Asked(
        Condition(label=torch.tensor(chosen)),
        [f"class{y}" for y in chosen],
        ["any class" if y == module.num_classes else f"class {y}" for y in chosen],
    )


def read_labels(labels: Numbers | None, module: FlowModule) -> list[int]:
    """Read labels as :func:`ask_for_classes` takes them; raise ConfigError if one is out of range."""
    if labels is None or (isinstance(labels, str) and labels.strip() == "all"):
        # A model without classes only has the label "any class".
        return list(range(module.num_classes)) or [0]
    chosen = parse_labels(labels, module.num_classes) if isinstance(labels, str) else [int(y) for y in labels]
    module.check_labels(torch.tensor(chosen, dtype=torch.int64))
    return chosen


def first_classes(module: FlowModule) -> str:
    """Return the first classes, four at most, as text that :func:`ask_for_classes` reads."""
    return ",".join(map(str, range(min(4, module.num_classes)))) or "0"


def repeat_each(values: Iterable[T], num: int | None, *, what: str) -> list[T]:
    """Repeat each label or prompt ``num`` times (None is once); raise ConfigError if ``num`` < 1 or there are none.

    Args:
        values: Values to repeat.
        num: Number of copies of each.
        what: Name of the argument, for errors.
    """
    if num is not None and (isinstance(num, bool) or not isinstance(num, int) or num < 1):
        raise ConfigError(f"num, the samples of each, must be a whole number of at least 1; got {num!r}")
    repeated = [value for value in values for _ in range(num or 1)]
    if not repeated:
        raise ConfigError(f"there is nothing to sample: {what} is empty")
    return repeated


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


def parse_numbers(text: str, *, what: str, example: str = "0,3,7-9") -> list[range]:
    """Parse labels such as ``"0,3,7-9"`` into ranges.

    Args:
        text: The numbers.
        what: Name of the argument, for errors.
        example: Example of a valid value, for errors.

    Returns:
        Ranges, whose bounds are still to be checked: a range costs nothing, however long it is.

    Raises:
        ConfigError: If the text is invalid.
    """
    runs = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            runs.append(range(int(first), (int(last) if dash else int(first)) + 1))
        except ValueError:
            raise ConfigError(f"{what} must look like {example} or all; got {text!r}") from None
    return runs


def parse_labels(text: str, num_classes: int) -> list[int]:
    """Parse labels such as ``"0,3,7-9"`` or ``"all"``; raise ConfigError if they are invalid or out of range."""
    if text == "all":
        return list(range(num_classes))
    runs = parse_numbers(text, what="labels")
    if any(end < 0 or end > num_classes for run in runs if run for end in (run[0], run[-1])) or not any(runs):
        raise ConfigError(f"labels {text!r}: this model has classes 0 to {num_classes - 1} ({num_classes}: any class)")
    return [y for run in runs for y in run]
