"""Combinations of class and conditions in training data, to tell which requests a model has never seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jitflow.core.condition_table import Category, ConditionTable
from jitflow.errors import CheckpointError

# Of a quantity's range: a number this near to one that was seen counts as seen.
_MARGIN = 0.01


@dataclass(frozen=True)
class Combinations:
    """Combinations of class and conditions that training data have.

    Attributes:
        table: The conditions.
        rows: Combinations of class and categories, shape ``(N, 1 + K)``; codes of quantities are 0 here.
        low: Smallest code of each quantity in a combination, shape ``(N, 1 + K)``; infinite where none is known.
        high: Largest code, minus infinity where none is known.
    """

    table: ConditionTable
    rows: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of_labels(cls, labels: Tensor, table: ConditionTable) -> Combinations:
        """Collect the combinations of labels.

        Args:
            labels: Labels of the training data, shape ``(N, 1 + K)``.
            table: The conditions.
        """
        labels, is_quantity = labels.double(), _is_quantity(table)
        rows, group = labels.masked_fill(is_quantity, 0.0).unique(dim=0, return_inverse=True)
        known = is_quantity & (labels >= 0)
        group = group[:, None].expand_as(labels)
        low = torch.full_like(rows, math.inf).scatter_reduce(0, group, labels.masked_fill(~known, math.inf), "amin")
        high = torch.full_like(rows, -math.inf).scatter_reduce(0, group, labels.masked_fill(~known, -math.inf), "amax")
        return cls(table, rows, low, high)

    def problem(self, label: Sequence[float], num_classes: int) -> str:
        """Say what of a label the training data do not have; empty if they have all of it.

        Args:
            label: Class and codes, ``1 + K`` numbers; null ones stand for any.
            num_classes: Number of classes, the null label of the class.
        """
        wanted, is_quantity = torch.tensor(label, dtype=torch.float64), _is_quantity(self.table)
        asked = wanted != torch.tensor([num_classes, *self.table.nulls])
        fits = ((self.rows == wanted) | ~asked | is_quantity).all(dim=1)
        if not bool(fits.any()):
            return "no training sample has this combination"
        for i in (asked & is_quantity).nonzero().flatten().tolist():
            low, high = float(self.low[fits, i].min()), float(self.high[fits, i].max())
            name, condition = list(self.table.conditions.items())[i - 1]
            if low > high:
                return f"no training sample of this combination has a known {name}"
            if not low - _MARGIN <= label[i] <= high + _MARGIN:
                return f"{name} lies outside {condition.value(low):g} to {condition.value(high):g} in training"
        return ""

    def to_record(self) -> list[list[Any]]:
        """Return the combinations as plain values: the class, then a code or, for a quantity, a range or null."""
        is_quantity = _is_quantity(self.table).tolist()
        return [
            [
                int(code) if not of_range else [low, high] if low <= high else None
                for code, low, high, of_range in zip(row, lows, highs, is_quantity, strict=True)
            ]
            for row, lows, highs in zip(self.rows.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        ]

    @classmethod
    def of_record(cls, record: Any, table: ConditionTable) -> Combinations:
        """Build the combinations of conditions from their record in a checkpoint.

        Args:
            record: Entries of :meth:`to_record`.
            table: The conditions.

        Raises:
            CheckpointError: If it is damaged.
        """
        is_quantity = _is_quantity(table).tolist()
        shape = (len(record) if isinstance(record, list) else 0, len(is_quantity))
        rows, low, high = (torch.full(shape, value, dtype=torch.float64) for value in (0.0, math.inf, -math.inf))
        try:
            for i, entry in enumerate(record):
                for k, (value, of_range) in enumerate(zip(entry, is_quantity, strict=True)):
                    if not of_range:
                        rows[i, k] = value
                    elif value is not None:
                        low[i, k], high[i, k] = value
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's combinations of conditions are damaged ({error})") from None
        return cls(table, rows, low, high)


def _is_quantity(table: ConditionTable) -> Tensor:
    return torch.tensor([False, *(not isinstance(condition, Category) for condition in table.conditions.values())])
