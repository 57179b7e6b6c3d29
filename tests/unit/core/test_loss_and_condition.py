"""Losses per sample, and the known part of a condition."""

import pytest
import torch

from jitflow.core.condition import Condition
from jitflow.core.loss import mse_per_sample
from jitflow.errors import ConfigError

PRED = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
ZERO = torch.zeros(2, 2, 2)


def test_mean_square_of_each_sample():
    assert mse_per_sample(PRED, ZERO).tolist() == [7.5, 1.0]
    assert mse_per_sample(PRED, PRED).tolist() == [0, 0]


def test_weights_choose_what_the_mean_is_over():
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert mse_per_sample(PRED, ZERO, weight=mask).tolist() == [5.0, 0.0]
    assert mse_per_sample(PRED, ZERO, weight=mask.bool()).tolist() == [5.0, 0.0]
    # A weighted mean, so the size of the weights does not matter; broadcast over a dimension of size 1.
    column = torch.tensor([1.0, 3.0]).view(1, 1, 2)
    assert mse_per_sample(PRED, ZERO, weight=column).tolist() == [(1 + 3 * 4 + 9 + 3 * 16) / 8, 3 * 4 / 8]
    torch.testing.assert_close(
        mse_per_sample(PRED, ZERO, weight=10 * column), mse_per_sample(PRED, ZERO, weight=column)
    )
    assert mse_per_sample(PRED, ZERO, weight=torch.ones(())).tolist() == [7.5, 1.0]


def test_computed_in_float32_and_differentiable():
    big = torch.full((1, 10), 300.0, dtype=torch.float16, requires_grad=True)
    loss = mse_per_sample(big, torch.zeros(1, 10, dtype=torch.float16))
    assert loss.dtype == torch.float32
    assert loss.item() == 90_000  # above the largest float16
    loss.backward()
    assert big.grad[0, 0].item() == 60


def test_broadcasting_is_refused():
    with pytest.raises(ConfigError, match="differ in shape"):
        mse_per_sample(PRED, torch.zeros(2, 1, 2))


def test_condition_keeps_the_known_part():
    x = torch.arange(4.0).view(1, 4)
    mask = torch.tensor([[True, False, False, True]])
    condition = Condition(known=torch.full((1, 4), 9.0, dtype=torch.float64), mask=mask)
    kept = condition.apply_known(x)
    assert kept.tolist() == [[9, 1, 2, 9]]
    assert kept.dtype == x.dtype
    assert condition.freeze_known(x + 1).tolist() == [[0, 2, 3, 0]]


def test_condition_without_a_known_part_changes_nothing():
    x = torch.ones(1, 4)
    assert Condition().apply_known(x) is x
    assert Condition().freeze_known(x) is x


@pytest.mark.parametrize("given", [{"known": torch.ones(1)}, {"mask": torch.ones(1, dtype=torch.bool)}])
def test_known_and_mask_come_together(given):
    with pytest.raises(ValueError, match="known and mask"):
        Condition(**given)
