"""Scores of text recovery: edit distance, recovery accuracy, token accuracy."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

from jitflow.errors import ConfigError, DataError


class RecoveryScores(NamedTuple):
    """Accuracy of recovered texts.

    Attributes:
        accuracy: Mean over the texts of 1 minus the normalised edit distance.
        exact: Share of the texts recovered without any error.
        num_texts: Number of texts.
        accuracies: Accuracy of each text.
    """

    accuracy: float
    exact: float
    num_texts: int
    accuracies: Sequence[float] = ()


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Compute the Levenshtein distance between two texts or token sequences.

    A column of the usual table is stored in two integers, one bit per row, so that 4,096 tokens against 4,096 take a
    few hundredths of a second.

    Args:
        a: A text, or a list (not an array) of token ids.
        b: Another of the same kind.

    Returns:
        The distance, from 0 to the length of the longer one.

    References:
        Myers 1999, "A fast bit-vector algorithm for approximate string matching based on dynamic programming", in
        the form of Hyyro 2003 for whole sequences.
    """
    start, end = 0, 0
    shorter = min(len(a), len(b))
    while start < shorter and a[start] == b[start]:
        start += 1
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    if not a or not b:
        return max(len(a), len(b))
    rows: dict[Hashable, int] = {}
    for i, symbol in enumerate(a):
        rows[symbol] = rows.get(symbol, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    # Bit masks of the vertical steps in a column: where the distance rises by one, and where it falls.
    rises, falls, distance = full, 0, len(a)
    for symbol in b:
        equal = rows.get(symbol, 0)
        # Rows whose distance equals that of the previous row and column.
        diagonal = full & ((((equal & rises) + rises) ^ rises) | equal | falls)
        # The same for the horizontal steps, from this column to the next.
        right_rises = falls | (full & ~(diagonal | rises))
        right_falls = rises & diagonal
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = right_rises << 1 | 1
        rises = full & (right_falls << 1 | ~(diagonal | right_rises))
        falls = diagonal & right_rises
    return distance


def normalised_edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Edit distance divided by the length of the longer sequence, in ``[0, 1]``; 0 for two empty sequences."""
    return edit_distance(a, b) / max(len(a), len(b), 1)


def text_recovery_accuracy(
    texts: Sequence[Sequence[Hashable]], recovered: Sequence[Sequence[Hashable]]
) -> RecoveryScores:
    """Compute the recovery accuracy of texts from noise.

    Args:
        texts: The true texts, strings or lists of token ids.
        recovered: The recovered texts, in the same order.

    Returns:
        Mean accuracy, exact share and number of texts.

    Raises:
        ConfigError: If the numbers of texts differ.
        DataError: If there is no text.
    """
    if len(texts) != len(recovered):
        raise ConfigError(f"{len(recovered)} recovered texts were given for {len(texts)} texts; give one for each")
    if not texts:
        raise DataError("there is no text to compare; give at least one")
    distances = [normalised_edit_distance(a, b) for a, b in zip(texts, recovered, strict=True)]
    return RecoveryScores(
        accuracy=1 - sum(distances) / len(distances),
        exact=sum(distance == 0 for distance in distances) / len(distances),
        num_texts=len(distances),
        accuracies=[1 - distance for distance in distances],
    )


def token_accuracy(pred_ids: Tensor, ids: Tensor, mask: Tensor | None = None) -> float:
    """Compute the share of correct tokens, position by position.

    Args:
        pred_ids: Predicted token ids, shape ``(B, N)``.
        ids: True token ids, shape ``(B, N)``.
        mask: Positions to count, shape ``(B, N)``, boolean; all if None.

    Returns:
        The share, in ``[0, 1]``.

    Raises:
        ConfigError: If the shapes differ, which broadcasting would hide.
        DataError: If the mask selects no position.
    """
    if pred_ids.shape != ids.shape or (mask is not None and mask.shape != ids.shape):
        shapes = [tuple(x.shape) for x in (pred_ids, ids, mask) if x is not None]
        raise ConfigError(f"pred_ids, ids and mask must have one shape; got {' and '.join(map(str, shapes))}")
    right = (pred_ids == ids).double()
    counted = right.flatten() if mask is None else right[mask.bool()]
    if not len(counted):
        raise DataError("no token counts; give text, or a mask that keeps some")
    return float(counted.mean())
