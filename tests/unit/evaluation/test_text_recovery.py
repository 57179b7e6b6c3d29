"""Edit distance against the table of dynamic programming, and the scores made of it."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jitflow.apps.text.recovery import (
    edit_distance,
    normalised_edit_distance,
    text_recovery_accuracy,
    token_accuracy,
)
from jitflow.errors import ConfigError, DataError


def table(a, b):
    """The recurrence, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@settings(max_examples=300, deadline=None)
@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
@example("", "")
@example("abc", "")
@example("ab", "ba")
@example("aaaa", "aa")
@example("a" * 70 + "b" * 70, "b" * 70 + "a" * 65)
def test_equals_the_recurrence(a, b):
    assert edit_distance(a, b) == table(a, b) == edit_distance(b, a)


def test_token_lists_longer_than_a_machine_word():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(5, (n,), generator=generator).tolist() for n in (300, 257))
    assert edit_distance(a, b) == table(a, b)


def test_known_words():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([1, 2, 3], [1, 3]) == 1
    assert normalised_edit_distance("kitten", "sitting") == pytest.approx(3 / 7)
    assert normalised_edit_distance("", "") == 0
    assert normalised_edit_distance("ab", "") == 1


def test_recovery_is_the_mean_over_texts():
    scores = text_recovery_accuracy(["kitten", "same", ""], ["sitting", "same", ""])
    assert scores.accuracy == pytest.approx(1 - 3 / 7 / 3)
    assert scores.exact == pytest.approx(2 / 3)
    assert scores.num_texts == 3


def test_token_accuracy_counts_what_the_mask_keeps():
    pred, ids = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 0], [3, 0]])
    assert token_accuracy(pred, ids) == 0.5
    assert token_accuracy(pred, ids, torch.tensor([[True, True], [True, False]])) == pytest.approx(2 / 3)


def test_bad_input():
    with pytest.raises(ConfigError, match="1 recovered texts were given for 2"):
        text_recovery_accuracy(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no text"):
        text_recovery_accuracy([], [])
    with pytest.raises(ConfigError, match="one shape"):
        token_accuracy(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ConfigError, match="one shape"):
        token_accuracy(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(DataError, match="no token counts"):
        token_accuracy(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
