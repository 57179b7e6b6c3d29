"""What somebody asks a model to sample: classes, users or prompts turned into one condition for all samples."""

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
    """What is asked for, in the model's own terms.

    Attributes:
        condition: Of all samples together. Its label is always there, shape ``(N,)``; known parts and masks may be of
            one sample, shape ``(1, *S)``, and hold for all then.
        names: Of each sample, for its file, such as ``class3``; empty where samples have none.
        captions: Of each sample, for people, such as ``class 3``; empty where samples have none.
        start: Data in the model space, shape ``(N, *S)``, and the time in ``[0, 1)`` up to which it is covered with
            noise: sampling goes on from there. None starts from noise.
        record: What was asked for beyond labels, plain values.
        unit: What the samples are, in the plural.
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
        """Return what is asked for some of the samples."""

        def cut(value: Tensor | None) -> Tensor | None:
            return value if value is None or len(value) == 1 < len(self) else value[index]

        condition = Condition(*map(cut, (self.condition.label, self.condition.known, self.condition.mask)))
        start = None if self.start is None else (self.start[0][index], self.start[1])
        return replace(self, condition=condition, names=self.names[index], captions=self.captions[index], start=start)


def ask_for_classes(
    module: FlowModule, *, labels: Numbers | None = None, num: int | None = None, **unknown: Any
) -> Asked:
    """Ask a model of classes for samples.

    Args:
        module: The model.
        labels: Label of each sample; text such as ``"0,3,7-9"`` or ``"all"``; None for every class. ``num_classes``
            means "any class".
        num: Samples of each, one after the other; None for one.
        unknown: Words of other applications.

    Returns:
        What is asked for.

    Raises:
        ConfigError: If there is no label, one is out of range, or a word is unknown.
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
        # Without classes there is "any class" alone.
        return list(range(module.num_classes)) or [0]
    if isinstance(labels, str):
        return parse_labels(labels, module.num_classes)
    chosen = [int(y) for y in labels]
    module.check_labels(torch.tensor(chosen, dtype=torch.int64))
    return chosen


def first_classes(module: FlowModule) -> str:
    """Write down the first classes, four at most, as :func:`ask_for_classes` reads them."""
    return ",".join(map(str, range(min(4, module.num_classes)))) or "0"


def repeat_each(values: Iterable[T], num: int | None, *, what: str) -> list[T]:
    """Repeat each value ``num`` times (None is once); raise ConfigError for a number below 1, or no values at all.

    Args:
        values: What to repeat.
        num: How many of each.
        what: The word that gave the values.
    """
    if num is not None and (isinstance(num, bool) or not isinstance(num, int) or num < 1):
        raise ConfigError(f"num, the samples of each, must be a whole number of at least 1; got {num!r}")
    repeated = [value for value in values for _ in range(num or 1)]
    if not repeated:
        raise ConfigError(f"there is nothing to sample: {what} is empty")
    return repeated


def refuse_words(unknown: Iterable[str], application: str, *, takes: Sequence[str]) -> None:
    """Raise ConfigError, naming what it takes, if an application is asked in words that it does not know.

    Args:
        unknown: Words that are left.
        application: Its name.
        takes: Words that it knows.
    """
    for word in unknown:
        raise ConfigError(
            f"{word!r} means nothing to a model of {application}, which is asked by {', '.join(takes)} (besides "
            "settings such as steps)"
        )


def parse_numbers(text: str, *, what: str, example: str = "0,3,7-9") -> list[range]:
    """Read numbers such as ``"0,3,7-9"``.

    Args:
        text: The numbers.
        what: The word that gave them.
        example: Numbers as they should look.

    Returns:
        Runs of numbers, each still to be checked: a range costs nothing, however long it claims to be.

    Raises:
        ConfigError: If they are none.
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
    """Read labels such as ``"0,3,7-9"`` or ``"all"``; raise ConfigError if they make no sense or are out of range."""
    if text == "all":
        return list(range(num_classes))
    runs = parse_numbers(text, what="labels")
    if any(end < 0 or end > num_classes for run in runs if run for end in (run[0], run[-1])) or not any(runs):
        raise ConfigError(f"labels {text!r}: this model has classes 0 to {num_classes - 1} ({num_classes}: any class)")
    return [y for run in runs for y in run]
