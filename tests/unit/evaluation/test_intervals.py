"""Intervals: closed forms, and coverage of expectations that are known."""

from __future__ import annotations

import json

import pytest
import torch

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.intervals import (
    Interval,
    bootstrap_mean,
    difference,
    disjoint_sets,
    groups_of,
    jackknife,
    share,
    student_quantile,
)


def test_bootstrap_of_a_share_is_as_wide_as_the_binomial_says() -> None:
    values = (torch.arange(4000) % 10 < 7).float()
    found = bootstrap_mean(values, seed=3)
    half = 1.96 * (0.7 * 0.3 / 4000) ** 0.5
    assert found.low == pytest.approx(0.7 - half, abs=0.1 * half)
    assert found.high == pytest.approx(0.7 + half, abs=0.1 * half)
    assert found == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert 0.7 in found and 0.8 not in found


def test_jackknife_of_a_mean_is_the_t_interval_of_its_groups() -> None:
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = groups_of(400, 20)
    without = [(values.sum() - values[group].sum()) / 380 for group in groups]
    sets = disjoint_sets([float(values[group].mean()) for group in groups])
    found = jackknife(float(values.mean()), torch.stack(without))
    assert (found.low, found.high) == pytest.approx((sets.low, sets.high))


def test_student_quantile_against_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    for degrees, within in ((1, 1e-12), (2, 1e-12), (4, 1e-3), (9, 1e-5), (19, 1e-6)):
        assert student_quantile(0.975, degrees) == pytest.approx(scipy_stats.t.ppf(0.975, degrees), rel=within)


@pytest.mark.parametrize("dim", [8, 150])
def test_jackknife_of_a_frechet_distance_covers_its_expectation(dim: int) -> None:
    """Also with fewer samples than dimensions (120 in 150), where a bootstrap of the distance misses altogether."""
    generator = torch.Generator().manual_seed(1)
    eye, zero, num = torch.eye(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64), 120

    def distance(rows: torch.Tensor) -> float:
        return frechet_distance(rows.mean(0), rows.T.cov(), zero, eye)

    values, found = [], []
    for _ in range(40):
        rows = 0.2 + 1.1 * torch.randn(num, dim, dtype=torch.float64, generator=generator)
        values.append(distance(rows))
        without = [distance(torch.cat([rows[: g.start], rows[g.stop :]])) for g in groups_of(num)]
        found.append(jackknife(values[-1], without))
    expected = sum(values) / len(values)
    # Of 40 intervals of level 0.95, 34 or more cover with probability 0.99.
    assert sum(expected in interval for interval in found) >= 34
    # Not by being too wide: about 2 t-quantiles of the values' own spread.
    width = sum(interval.high - interval.low for interval in found) / len(found)
    assert width == pytest.approx(2 * student_quantile(0.975, 9) * float(torch.tensor(values).std()), rel=0.35)


def test_record_survives_json() -> None:
    found = bootstrap_mean([0.0, 1.0, 1.0], seed=0)
    assert Interval.from_record(json.loads(json.dumps(found.record()))) == found
    with pytest.raises(ConfigError, match="interval"):
        Interval.from_record({"low": 1})


def test_groups_cover_all_samples_once_and_have_two_each() -> None:
    for num in (4, 7, 39, 1000):
        groups = groups_of(num)
        assert [i for group in groups for i in range(num)[group]] == list(range(num))
        assert min(group.stop - group.start for group in groups) >= 2
    assert groups_of(3) == []


@pytest.mark.parametrize("values", [[1.0], []])
def test_one_value_has_no_interval(values: list[float]) -> None:
    with pytest.raises(ConfigError, match="two values"):
        bootstrap_mean(values, seed=0)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        disjoint_sets([1.0, float("nan")])
    with pytest.raises(ConfigError, match="level"):
        disjoint_sets([1.0, 2.0], level=1)


def test_a_share_of_none_still_has_a_width() -> None:
    none, some = share(torch.zeros(1000)), share((torch.arange(1000) % 4 == 0).float())
    # The rule of three: none of n excludes more than about 3.8 / n at 95 %.
    assert none.low == 0 and none.high == pytest.approx(3.84 / 1000, rel=0.02)
    assert some.low == pytest.approx(0.2242, abs=1e-4) and some.high == pytest.approx(0.2778, abs=1e-4)
    assert len(some.replicates) == len(groups_of(1000)) and set(some.replicates) == {0.25}


def test_a_difference_on_the_same_seeds_cancels_what_both_share() -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(2000, generator=generator)
    one, two = common, common + 0.05 + 0.02 * torch.randn(2000, generator=generator)
    scores = [(float(values.mean()), bootstrap_mean(values, seed=0)) for values in (one, two)]
    apart, paired = difference(*scores), difference(*scores, same_samples=True)
    assert 0 in apart and 0 not in paired and paired.low == pytest.approx(0.05, abs=2e-3)
    # Two independent means: a standard error of sqrt(2 / n).
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * (2 / 2000) ** 0.5, rel=0.1)
    assert "same seeds" in paired.method and "quadrature" in apart.method
    # None of a thousand in both is no proof that both are equal.
    none = (0.0, share(torch.zeros(1000)))
    assert difference(none, none, same_samples=True).high == pytest.approx(3.83 / 1000, rel=0.01)


def test_differences_of_equal_models_are_significant_in_one_of_twenty() -> None:
    generator = torch.Generator().manual_seed(1)
    missed = {True: 0, False: 0}
    for _ in range(200):
        scores = []
        for _ in range(2):
            values = (torch.rand(400, generator=generator) < 0.3).double()
            scores.append((float(values.mean()), share(values)))
        for same in missed:
            missed[same] += 0 not in difference(*scores, same_samples=same)
    # 200 draws of 5 %: 10, and 3 to 20 with a probability above 0.99.
    assert all(3 <= count <= 20 for count in missed.values()), missed
