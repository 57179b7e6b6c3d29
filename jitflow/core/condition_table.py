"""Table of named conditions besides the class, such as an activity or a speed, and their codes in a label.

A label of a model with such a table is a row ``(class, code, code, ...)`` of float32, shape ``(B, 1 + K)`` for a batch.
The code of a category is its number, that of a quantity its place in its range, in ``[0, 1]``; each has a null code for
"any" (unknown, or dropped for guidance). Labels of a model without a table have the shape ``(B,)``, int64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jitflow.errors import ConfigError, unknown_name

ALL = "all"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NULL_QUANTITY = -1.0
# Of the width of a range; a number that was written with six digits is still inside.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Category:
    """Condition with a few names, such as an activity.

    Attributes:
        names: Names by code.
    """

    names: tuple[str, ...]

    @property
    def null(self) -> float:
        """Code for "any"."""
        return float(len(self.names))

    def code(self, name: str, value: object) -> float:
        """Return the code of a value; raise ConfigError if it is none of the names."""
        if not isinstance(value, str) or value not in self.names:
            raise unknown_name(name, str(value), self.names)
        return float(self.names.index(value))

    def value(self, code: float) -> str:
        """Return the name with a code."""
        return self.names[int(code)]

    def is_code(self, codes: Tensor) -> Tensor:
        """Whether numbers are codes of this category or its null, shape as given, bool."""
        return (codes == codes.round()) & (codes >= 0) & (codes <= self.null)

    def to_record(self) -> dict[str, Any]:
        """Return the condition as plain values."""
        return {"names": list(self.names)}


@dataclass(frozen=True)
class Quantity:
    """Condition with a number, such as a speed.

    Attributes:
        low: Smallest value.
        high: Largest value.
    """

    low: float
    high: float

    @property
    def null(self) -> float:
        """Code for "any"."""
        return _NULL_QUANTITY

    def code(self, name: str, value: object) -> float:
        """Return the code of a value; raise ConfigError if it is no number of the range."""
        try:
            number = float(value) if isinstance(value, int | float | str) else math.nan
        except ValueError:
            number = math.nan
        code = (number - self.low) / (self.high - self.low)
        if not -_TOLERANCE <= code <= 1 + _TOLERANCE:
            raise ConfigError(f"{name} must be a number from {self.low:g} to {self.high:g}; got {value!r}")
        return min(1.0, max(0.0, code))

    def value(self, code: float) -> float:
        """Return the number with a code, to six digits."""
        return float(f"{self.low + code * (self.high - self.low):.6g}")

    def is_code(self, codes: Tensor) -> Tensor:
        """Whether numbers are codes of this quantity or its null, shape as given, bool."""
        return ((codes >= 0) & (codes <= 1)) | (codes == self.null)

    def to_record(self) -> dict[str, Any]:
        """Return the condition as plain values."""
        return {"range": [self.low, self.high]}


Named = Category | Quantity


@dataclass(frozen=True)
class ConditionTable:
    """Named conditions of a model besides the class, in the order of their codes in a label.

    Attributes:
        conditions: Conditions by name; K of them.
    """

    conditions: Mapping[str, Named]

    @classmethod
    def of_record(cls, record: object) -> ConditionTable | None:
        """Build the condition table of a recipe, checkpoint or file.

        Args:
            record: Conditions by name, each ``{names: [walk, run]}`` or ``{range: [0.5, 2.0]}``; None or empty for no
                table.

        Raises:
            ConfigError: If a name or a condition is invalid.
        """
        if record is None or record == {}:
            return None
        if not isinstance(record, Mapping):
            raise ConfigError(f"conditions must be given by name, such as {{speed: {{range: [0.5, 2]}}}}; got {record}")
        return cls({_checked_name(name): _condition_of(name, entry) for name, entry in record.items()})

    def to_record(self) -> dict[str, Any]:
        """Return the table as plain values, see :meth:`of_record`."""
        return {name: condition.to_record() for name, condition in self.conditions.items()}

    def __len__(self) -> int:
        return len(self.conditions)

    @property
    def nulls(self) -> tuple[float, ...]:
        """Code for "any" of each condition."""
        return tuple(condition.null for condition in self.conditions.values())

    def codes(self, values: Mapping[str, object]) -> list[float]:
        """Return the codes of values by name, null for conditions that are not named or None.

        Args:
            values: Names of categories, and numbers.

        Raises:
            ConfigError: If a name is unknown or a value invalid.
        """
        for name in values:
            if name not in self.conditions:
                raise unknown_name("condition", name, list(self.conditions))
        return [
            condition.null if values.get(name) is None else condition.code(name, values[name])
            for name, condition in self.conditions.items()
        ]

    def values(self, codes: Sequence[float]) -> dict[str, str | float]:
        """Return the values of codes, shape ``(K,)``, by name, without those that are null."""
        pairs = zip(self.conditions.items(), codes, strict=True)
        return {name: condition.value(code) for (name, condition), code in pairs if code != condition.null}

    def check_codes(self, codes: Tensor) -> None:
        """Raise ConfigError if a code of labels, shape ``(B, K)``, is out of range."""
        for (name, condition), column in zip(self.conditions.items(), codes.unbind(1), strict=True):
            wrong = column[~condition.is_code(column)]
            if len(wrong):
                raise ConfigError(f"label: {float(wrong[0]):g} is no code of the condition {name}")


def class_of(labels: Tensor) -> Tensor:
    """Return the class of each sample, shape ``(B,)``, int64.

    Args:
        labels: Labels, shape ``(B,)``, int64, or ``(B, 1 + K)``, float32.
    """
    return labels if labels.dim() == 1 else labels[:, 0].long()


def with_conditions(classes: Tensor, table: ConditionTable | None) -> Tensor:
    """Return labels ``(B, 1 + K)``, float32, of classes ``(B,)`` under any condition; the classes without a table."""
    if table is None:
        return classes
    nulls = torch.tensor(table.nulls, device=classes.device).expand(len(classes), -1)
    return torch.cat([classes.float()[:, None], nulls], dim=1)


def null_labels(labels: Tensor, num_classes: int, table: ConditionTable | None, keep: Sequence[bool] = ()) -> Tensor:
    """Return the labels of a pass without the class and the conditions, shape of ``labels``.

    Args:
        labels: Labels, shape ``(B,)`` or, with a table, ``(B, 1 + K)``.
        num_classes: Number of classes, the null label.
        table: The conditions; None for labels ``(B,)``.
        keep: Whether the class and each condition stay, ``1 + K`` values; empty for none.
    """
    if table is None:
        return torch.full_like(labels, num_classes)
    null = labels.new_tensor([num_classes, *table.nulls]).expand_as(labels)
    return torch.where(torch.tensor(keep, device=labels.device), labels, null) if len(keep) else null.clone()


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == ALL:
        raise ConfigError(f"a condition's name must be of small letters, digits and _, such as speed; got {name!r}")
    return name


def _condition_of(name: object, entry: object) -> Named:
    if isinstance(entry, Category | Quantity):
        return entry
    problem = f"condition {name} must be {{names: [walk, run]}} or {{range: [0.5, 2.0]}}; got {entry!r:.80}"
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ConfigError(problem)
    kind, values = next(iter(entry.items()))
    if not isinstance(values, list | tuple) or kind not in ("names", "range"):
        raise ConfigError(problem)
    if kind == "names":
        names = tuple(str(value) for value in values)
        if not names or len(set(names)) < len(names) or "" in names:
            raise ConfigError(f"condition {name}: its names must differ and not be empty; got {list(names)}")
        return Category(names)
    if len(values) != 2 or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise ConfigError(problem)
    low, high = map(float, values)
    if not low < high:
        raise ConfigError(f"condition {name}: its range must rise; got {list(values)}")
    return Quantity(low, high)
