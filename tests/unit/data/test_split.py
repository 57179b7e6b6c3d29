"""The held-out part: of every class its share, the same every time."""

import numpy as np
import pytest

from jitflow.data.split import held_out_split
from jitflow.errors import ConfigError

LABELS = np.array([0] * 10 + [1] * 25 + [2] + [4] * 3)[np.random.default_rng(0).permutation(39)]


def test_every_class_gives_its_share_and_keeps_one():
    train, val = held_out_split(LABELS, 0.4)
    assert sorted([*train, *val]) == list(range(39))
    assert list(train) == sorted(train)
    assert list(val) == sorted(val)
    assert np.bincount(LABELS[val], minlength=5).tolist() == [4, 10, 0, 0, 1]
    most = held_out_split(LABELS, 0.99)[0]
    assert np.bincount(LABELS[most], minlength=5).tolist() == [1, 1, 1, 0, 1]


def test_it_is_random_and_always_the_same():
    val = held_out_split(LABELS, 0.4)[1]
    assert np.array_equal(val, held_out_split(LABELS, 0.4)[1])
    first_of_class = [np.flatnonzero(y == LABELS)[: np.sum(LABELS[val] == y)] for y in range(5)]
    assert sorted(np.concatenate(first_of_class)) != list(val)
    # A class does not depend on the others.
    fewer = np.where(LABELS == 0, 2, LABELS)
    assert set(val[LABELS[val] == 1]) == set(held_out_split(fewer, 0.4)[1]) & set(np.flatnonzero(LABELS == 1))


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ConfigError, match=r"val_fraction must lie in \(0, 1\)"):
        held_out_split(LABELS, fraction)


def test_nothing_held_out():
    with pytest.raises(ConfigError, match=r"val_fraction=0\.01 .*25 images"):
        held_out_split(LABELS, 0.01)
