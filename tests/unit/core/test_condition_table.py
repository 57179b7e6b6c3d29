"""Named conditions: records, codes, null labels, and the combinations that training data have."""

import pytest
import torch

from jitflow.core.combinations import Combinations
from jitflow.core.condition_table import ConditionTable, class_of, null_labels, with_conditions
from jitflow.errors import CheckpointError, ConfigError

RECORD = {"activity": {"names": ["walk", "run"]}, "speed": {"range": [0.5, 2.5]}}
TABLE = ConditionTable.of_record(RECORD)
# Users 0 and 1; user 1 never runs, and walks faster. One speed is unknown.
SEEN = torch.tensor([[0, 0, 0.1], [0, 0, 0.3], [0, 1, 0.8], [0, 1, 1.0], [1, 0, 0.5], [1, 0, -1]])


def test_a_table_comes_back_from_its_record():
    assert ConditionTable.of_record(TABLE.to_record()) == TABLE and TABLE.to_record() == RECORD
    assert ConditionTable.of_record(None) is None and ConditionTable.of_record({}) is None


def test_codes_are_numbers_of_names_and_places_in_ranges():
    assert TABLE.codes({"activity": "run", "speed": 1.5}) == [1.0, 0.5]
    assert TABLE.codes({"speed": "2.5"}) == [2.0, 1.0] and TABLE.codes({}) == [*TABLE.nulls] == [2.0, -1.0]
    assert TABLE.values([1.0, 0.5]) == {"activity": "run", "speed": 1.5}
    assert TABLE.values(TABLE.nulls) == {}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"activity": "runs"}, "did you mean run"),
        ({"activty": "run"}, "did you mean activity"),
        ({"speed": 2.6}, "speed must be a number from 0.5"),
        ({"speed": "fast"}, "speed must be a number"),
        ({"speed": float("nan")}, "speed must be a number"),
    ],
)
def test_a_wrong_value_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        TABLE.codes(values)


@pytest.mark.parametrize(
    "record",
    [
        ["activity"],
        {"Activity": {"names": ["walk"]}},
        {"all": {"names": ["walk"]}},
        {"activity": {"names": []}},
        {"activity": {"names": ["walk", "walk"]}},
        {"activity": ["walk", "run"]},
        {"speed": {"range": [2, 1]}},
        {"speed": {"range": [0, float("inf")]}},
        {"speed": {"range": ["a", "b"]}},
    ],
)
def test_a_wrong_record_is_one_error(record):
    with pytest.raises(ConfigError, match="condition"):
        ConditionTable.of_record(record)


def test_null_labels_leave_what_is_kept():
    labels = torch.tensor([[0, 1, 0.5], [2, 0, 1.0]])
    assert null_labels(labels, 3, TABLE).tolist() == [[3, 2, -1], [3, 2, -1]]
    assert null_labels(labels, 3, TABLE, [True, False, True]).tolist() == [[0, 2, 0.5], [2, 2, 1.0]]
    assert null_labels(torch.tensor([0, 1]), 3, None).tolist() == [3, 3]
    assert with_conditions(torch.tensor([0, 2]), TABLE).tolist() == [[0, 2, -1], [2, 2, -1]]
    assert class_of(labels).tolist() == [0, 2] and class_of(labels).dtype == torch.int64


@pytest.mark.parametrize("code", [[0.5, 0.0], [3.0, 0.0], [0.0, 1.5], [0.0, -0.5], [float("nan"), 0.0]])
def test_a_number_that_is_no_code_is_refused(code):
    with pytest.raises(ConfigError, match="no code of the condition"):
        TABLE.check_codes(torch.tensor([[0.0, 0.0], code]))


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ([0, 1, 0.9], ""),
        ([0, 1, -1], ""),
        ([2, 1, 0.9], ""),
        ([1, 2, 0.5], ""),
        ([1, 1, -1], "no training sample has this combination"),
        ([0, 0, 0.9], "speed lies outside 0.7 to 1.1"),
        ([1, 2, 0.8], "speed lies outside 1.5 to 1.5"),
    ],
)
def test_what_training_never_had_is_said(label, problem):
    seen = Combinations.of_labels(SEEN, TABLE)
    for combinations in (seen, Combinations.of_record(seen.to_record(), TABLE)):
        found = combinations.problem(label, 2)
        assert found.startswith(problem) and bool(found) == bool(problem)


def test_a_damaged_record_of_combinations_is_one_error():
    for record in ([[0, 0]], [[0, "walk", [0, 1]]], [[0, 0, [1]]], 3):
        with pytest.raises(CheckpointError, match="combinations"):
            Combinations.of_record(record, TABLE)
