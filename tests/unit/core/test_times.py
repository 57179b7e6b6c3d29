"""Distributions and grids of times."""

from statistics import NormalDist

import pytest
import torch

from jitflow.core.times import TimeDistribution, shift_times, time_grid
from jitflow.errors import ConfigError


@pytest.mark.parametrize("num_steps", [1, 2, 20, 50])
def test_grid(num_steps):
    grid = time_grid(num_steps)
    assert grid.dtype == torch.float32
    assert grid.device.type == "cpu"
    assert torch.equal(grid, torch.linspace(0, 1, num_steps + 1))


@pytest.mark.parametrize("num_steps", [0, -3, 2.5, True])
def test_grid_needs_a_whole_number_of_steps(num_steps):
    with pytest.raises(ConfigError, match="at least 1"):
        time_grid(num_steps)


@pytest.mark.parametrize("shift", [0.3, 1.0, 4.0])
def test_shift_keeps_ends_and_order(shift):
    grid = time_grid(30, shift=shift)
    assert (grid[0], grid[-1]) == (0, 1)
    assert (grid.diff() > 0).all()


def test_shift_direction_composition_and_inverse():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    # The noise share 1 - t = 1/2 becomes 3 * 1/2 / (1 + 2 * 1/2) = 3/4.
    assert shift_times(torch.tensor(0.5), 3.0).item() == pytest.approx(0.25)
    torch.testing.assert_close(shift_times(shift_times(t, 2.0), 3.5), shift_times(t, 7.0))
    torch.testing.assert_close(shift_times(shift_times(t, 5.0), 1 / 5.0), t)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_shift_must_be_positive(shift):
    with pytest.raises(ConfigError, match="positive"):
        shift_times(torch.tensor([0.5]), shift)
    with pytest.raises(ConfigError, match="positive"):
        time_grid(4, shift=shift)


@pytest.mark.parametrize("kind", ["logit_normal", "uniform"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_quantiles_against_the_closed_form(kind, shift):
    times = TimeDistribution(kind, mean=-0.8, std=0.8, shift=shift)
    drawn = times.sample(200_000, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (200_000,)
    assert drawn.dtype == torch.float32
    # Back to the unshifted time, then the distribution function of the kind.
    t = drawn.double()
    t = shift * t / (1 + (shift - 1) * t)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = t.quantile(q)
        share = NormalDist(-0.8, 0.8).cdf(torch.logit(at).item()) if kind == "logit_normal" else at.item()
        assert share == pytest.approx(q, abs=0.004)


def test_logit_normal_of_the_mean():
    assert TimeDistribution(mean=0.0).from_normal(torch.zeros(1)).item() == 0.5
    assert TimeDistribution(mean=-0.8, std=0.8).from_normal(torch.ones(2, 1)).tolist() == [[0.5], [0.5]]


def test_bad_distributions():
    with pytest.raises(ConfigError, match="did you mean uniform"):
        TimeDistribution("unifrm")
    with pytest.raises(ConfigError, match="negative"):
        TimeDistribution(std=-0.1)
