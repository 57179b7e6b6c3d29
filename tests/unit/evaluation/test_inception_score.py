"""Inception Score where it is known, and against torch-fidelity."""

import pytest
import torch

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.inception_score import inception_score


def test_uniform_probabilities_score_one():
    assert inception_score(torch.zeros(40, 7), 4)[:2] == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(torch.full((40, 7), 1 / 7), 4, probabilities=True)[:2] == pytest.approx((1, 0), abs=1e-6)


def test_certain_and_balanced_scores_the_number_of_classes():
    one_hot = torch.eye(7).repeat(8, 1)
    assert inception_score(one_hot, 4, probabilities=True)[:2] == pytest.approx((7, 0), rel=1e-12)
    # So certain that the other probabilities are 0 in float64.
    assert inception_score(1e4 * one_hot, 4).mean == pytest.approx(7, rel=1e-12)


def test_certain_of_one_class_scores_one():
    assert inception_score(torch.eye(7)[:1].repeat(20, 1), 2, probabilities=True)[:2] == (1, 0)


def test_two_images_by_hand():
    p, q = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64), torch.tensor([0.7, 0.3], dtype=torch.float64)
    expected = (p * (p / q).log()).sum(dim=1).mean().exp()
    assert inception_score(p, 1, probabilities=True).mean == pytest.approx(float(expected), rel=1e-12)


def test_splits_are_taken_in_order():
    # In the order of the classes a split sees few of them; in turn it sees all.
    one_hot = torch.eye(10).repeat_interleave(10, dim=0)
    assert inception_score(one_hot, 10, probabilities=True).mean == pytest.approx(1)
    assert inception_score(one_hot[torch.arange(100).view(10, 10).T.flatten()], 10, probabilities=True).mean == (
        pytest.approx(10)
    )
    # Ten images of one class, ten of two.
    halves = torch.eye(2).repeat_interleave(torch.tensor([15, 5]), dim=0)
    found = inception_score(halves, 2, probabilities=True)
    assert found[:2] == pytest.approx((1.5, 0.5)) and found.of_splits == pytest.approx((1, 2))


@pytest.mark.parametrize("splits", [1, 10])
def test_agrees_with_torch_fidelity(splits):
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(203, 50, generator=torch.Generator().manual_seed(0))
    theirs = metric_isc.isc_features_to_metric(logits, splits=splits, shuffle=False)
    ours = inception_score(logits, splits)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-6, abs=1e-10)
    if splits == 1:
        shuffled = metric_isc.isc_features_to_metric(logits, splits=1)
        assert ours.mean == pytest.approx(shuffled["inception_score_mean"], rel=1e-10)


def test_bad_input():
    with pytest.raises(ConfigError, match=r"\(N, K\)"):
        inception_score(torch.zeros(5))
    for splits in (0, 6):
        with pytest.raises(ConfigError, match=r"number of images \(5\)"):
            inception_score(torch.zeros(5, 3), splits)
    with pytest.raises(DataError, match="1 of 5 images"):
        inception_score(torch.zeros(5, 3).index_fill(0, torch.tensor([2]), torch.nan), 1)
    for wrong in (torch.full((5, 3), 0.5), torch.tensor([[1.5, -0.5]])):
        with pytest.raises(DataError, match="sum to 1"):
            inception_score(wrong, 1, probabilities=True)
