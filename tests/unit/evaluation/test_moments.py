"""Streamed moments against one pass over everything."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.moments import Moments


def draw(num=60, dim=5, offset=0.0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + offset


def moments_of(*parts):
    moments = Moments(parts[0].shape[1])
    for part in parts:
        moments.update(part)
    return moments


def assert_equal(moments, features, *, tolerance=1e-12):
    expected = np.cov(features.numpy(), rowvar=False)
    assert moments.count == len(features)
    np.testing.assert_allclose(moments.mean.numpy(), features.numpy().mean(axis=0), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(moments.covariance.numpy(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), merge=st.booleans())
def test_any_split_equals_one_pass_equals_numpy(cuts, merge):
    features = draw()
    borders = [0, *sorted(cuts), 60]
    parts = [features[a:b] for a, b in pairwise(borders)]
    if merge:
        moments = Moments(5)
        for part in parts:
            other = moments_of(part)
            moments.merge(other)
            assert other.count == len(part)
    else:
        moments = moments_of(*parts)
    assert_equal(moments, features)


def test_a_large_mean_does_not_cancel_the_spread():
    # Sums of squares in float64 would leave no correct digit here: (1e9)^2 * 1e-16 = 100.
    features = draw(offset=1e9)
    assert_equal(moments_of(*features.split(7)), features, tolerance=1e-7)


def test_float32_features_are_summed_in_float64():
    features = draw().float()
    assert moments_of(features).covariance.dtype == torch.float64
    assert_equal(moments_of(*features.split(1)), features.double())


def test_state_round_trip_continues():
    features = draw()
    state = moments_of(features[:20]).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    moments = Moments.from_state_dict(state)
    moments.update(features[20:])
    assert_equal(moments, features)
    assert state["count"] == 20 and torch.equal(state["mean"], moments_of(features[:20]).mean)


def test_rows_that_are_not_finite_are_counted_and_refused():
    moments = moments_of(draw())
    before = moments.state_dict()
    features = draw(8)
    features[2, 1], features[5, 0], features[5, 3] = torch.nan, torch.inf, torch.nan
    with pytest.raises(DataError, match="2 of 8 feature vectors"):
        moments.update(features)
    assert all(torch.equal(value, before[name]) for name, value in moments.state_dict().items())


def test_bad_shapes_and_too_few():
    with pytest.raises(ConfigError, match=r"\(N, 5\)"):
        Moments(5).update(draw(4, 6))
    with pytest.raises(ConfigError, match="6 and 5"):
        Moments(5).merge(Moments(6))
    with pytest.raises(ConfigError, match="at least 1"):
        Moments(0)
    with pytest.raises(ConfigError, match="belong together"):
        Moments.from_state_dict({"count": torch.tensor(1), "mean": torch.zeros(3), "scatter": torch.zeros(2, 2)})
    with pytest.raises(DataError, match=r"at least 1 image.*0 were"):
        _ = Moments(5).mean
    with pytest.raises(DataError, match=r"at least 2 image.*1 were"):
        _ = moments_of(draw(1)).covariance
