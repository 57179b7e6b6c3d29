"""Named conditions of a data set from the columns of its manifest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.arrays.description import AUTO, DESCRIPTION_NAME, NAMES, NUMBERS
from jitflow.apps.microdoppler.user_files import UserFile, listed
from jitflow.core.condition_table import Category, ConditionTable
from jitflow.errors import ConfigError, DataError

# More names than this are probably numbers or remarks.
_MOST_NAMES = 1000


def find_conditions(files: Iterable[UserFile], stated: Mapping[str, Any] | None) -> ConditionTable | None:
    """Find the table of the conditions of a data set.

    A column whose values are all numbers is a quantity with their range; any other one has its names, sorted. Empty
    cells are unknown values.

    Args:
        files: Training and validation files.
        stated: What ``conditions`` of the data's description says, by column; None for no conditions.

    Returns:
        The conditions; None for none.

    Raises:
        DataError: If a column has no values, a single one, or numbers that are none.
        ConfigError: If what is stated is invalid.
    """
    if not stated:
        return None
    found = list(files)
    return ConditionTable.of_record(
        {
            name: _condition(name, kind, sorted({file.conditions.get(name, "") for file in found} - {""}))
            for name, kind in stated.items()
        }
    )


def label_codes(files: Sequence[UserFile], table: ConditionTable) -> np.ndarray:
    """Return the codes of the conditions of files, shape ``(N, K)``, float32.

    Args:
        files: The files.
        table: The conditions.

    Raises:
        DataError: If a value is none that the data's description states; names the file.
    """
    codes = np.empty((len(files), len(table)), np.float32)
    for row, file in zip(codes, files, strict=True):
        try:
            row[:] = table.codes({name: file.conditions.get(name) or None for name in table.conditions})
        except ConfigError as error:
            raise DataError(
                f"{file.path}: {error}; correct the manifest, or conditions in {DESCRIPTION_NAME}"
            ) from None
    return codes


def condition_texts(table: ConditionTable) -> dict[str, str]:
    """Describe the conditions of a model or data set in a few words each, by name."""
    return {
        name: listed(condition.names) if isinstance(condition, Category) else f"{condition.low:g} to {condition.high:g}"
        for name, condition in table.conditions.items()
    }


def _condition(name: str, kind: Any, values: Sequence[str]) -> dict[str, Any]:
    """Return the record of a condition from what is stated and the values of its column, each once."""
    if isinstance(kind, list):
        is_range = len(kind) == 2 and all(isinstance(v, int | float) for v in kind)
        return {"range": kind} if is_range else {"names": kind}
    if not values:
        raise DataError(f"the column {name}, a condition, is empty; fill it in, or leave it out of {DESCRIPTION_NAME}")
    numbers = [_number(value) for value in values]
    if kind == NAMES or (kind == AUTO and not all(map(math.isfinite, numbers))):
        if len(values) > _MOST_NAMES:
            raise DataError(
                f"the column {name}, a condition, has {len(values):,} names; at most {_MOST_NAMES} are used"
            )
        return {"names": list(values)}
    wrong = [value for value, number in zip(values, numbers, strict=True) if not math.isfinite(number)]
    if wrong:
        raise DataError(f"the column {name} is stated as {NUMBERS} and holds {listed(wrong)}")
    if min(numbers) == max(numbers):
        raise DataError(
            f"the column {name}, a condition, is {values[0]} everywhere; leave it out of {DESCRIPTION_NAME}"
        )
    return {"range": [min(numbers), max(numbers)]}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
