"""Frechet distances of samples: replicates, bias and extrapolation against what is known."""

from __future__ import annotations

import pytest
import torch

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.frechet import Statistics, frechet_distance
from jitflow.evaluation.frechet_samples import FrechetReference
from jitflow.evaluation.intervals import groups_of

DIM = 12


def draw(num, seed, scale=1.0, dim=DIM):
    spread = torch.linspace(0.2, 1, dim, dtype=torch.float64)
    return (scale * torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))) * spread


def distance(rows, statistics):
    return frechet_distance(rows.mean(0), rows.T.cov(), *statistics)


@pytest.fixture(scope="module")
def statistics():
    return Statistics(
        torch.zeros(DIM, dtype=torch.float64), torch.linspace(0.2, 1, DIM, dtype=torch.float64).diag() ** 2
    )


@pytest.mark.parametrize("num", [200, 9], ids=["regular", "singular"])
def test_replicates_leave_out_one_group_each(statistics, num):
    rows = draw(num, 0, scale=1.3) + 0.2
    found = FrechetReference(statistics).sample(rows)
    groups = groups_of(num)
    expected = [distance(torch.cat([rows[: g.start], rows[g.stop :]]), statistics) for g in groups]
    assert found.value == pytest.approx(distance(rows, statistics), rel=1e-12)
    torch.testing.assert_close(found.without, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert found.value in found.interval
    # With a singular covariance the bias is no longer c / N.
    assert (found.bias is None) == (num == 9)


def test_bias_of_a_perfect_model_is_the_whole_distance(statistics):
    """Samples of the reference's own distribution: the distance of infinitely many is 0, so all of it is bias."""
    reference = FrechetReference(statistics)
    found = [reference.sample(draw(400, seed)) for seed in range(30)]
    value, bias = (sum(values) / len(found) for values in ([f.value for f in found], [f.bias for f in found]))
    assert value > 0.03
    assert bias == pytest.approx(value, rel=0.15)


def test_extrapolation_finds_the_distance_of_infinitely_many(statistics):
    reference = FrechetReference(statistics)
    # |mu|^2 + tr((1.2 - 1)^2 sigma)
    known = DIM * 0.1**2 + 0.2**2 * float(statistics.sigma.trace())
    samples = [draw(400, seed, scale=1.2) + 0.1 for seed in range(40)]
    values = [reference.sample(rows).value for rows in samples]
    extrapolated = [reference.at_infinity(rows) for rows in samples]
    bias, left = (sum(found) / len(found) - known for found in (values, extrapolated))
    assert bias > 0.04
    assert abs(left) < 0.35 * bias
    assert extrapolated[0] == reference.at_infinity(samples[0])
    assert len(reference.infinity_without_groups(samples[0])) == 10


def test_what_cannot_be_compared(statistics):
    reference = FrechetReference(statistics)
    with pytest.raises(DataError, match="all generated images"):
        reference.sample(torch.ones(10, DIM))
    with pytest.raises(DataError, match="NaN"):
        reference.sample(torch.full((10, DIM), torch.nan))
    with pytest.raises(ConfigError, match="at least 20"):
        reference.at_infinity(draw(19, 0))
    # Three samples make no two groups, so there is no interval.
    assert reference.sample(draw(3, 0)).interval is None
