"""A solver's steps backwards: closed forms, round trips, and what does not converge."""

import pytest
import torch

from jitflow.core.inversion import clamp_times, invert
from jitflow.core.solver import integrate
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError

X = torch.tensor([[0.3, -1.2], [0.9, 2.0]], dtype=torch.float64)


def waves(x, t):
    return torch.sin(2 * x) - t.view(-1, 1) * x.flip(1)


def test_an_euler_step_of_a_linear_field_is_undone_in_closed_form():
    times = torch.tensor([0.0, 0.5, 1.0])
    found = invert(lambda x, t: 0.8 * x, X, times, solver="euler", iterations=100, tolerance=1e-12)
    torch.testing.assert_close(found.x, X / 1.4**2)
    assert (found.residual < 1e-12).all() and found.evaluations < 100


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
def test_the_steps_forwards_lead_back_to_the_bit_of_the_tolerance(solver):
    times = clamp_times(time_grid(12), 0.05, 0.95)
    assert times[0] == 0.05 and times[-1] == 0.95 and len(times) == 13
    seen = []
    found = invert(
        waves,
        X,
        times,
        solver=solver,
        iterations=60,
        tolerance=1e-12,
        on_step=lambda done, total, t, x: seen.append((done, total, round(t, 3))),
    )
    assert (found.residual < 1e-12).all()
    torch.testing.assert_close(integrate(waves, found.x, times, solver=solver), X, atol=1e-10, rtol=0)
    assert (found.x - X).abs().max() > 0.1
    assert seen[0] == (1, 12, 0.917) and seen[-1] == (12, 12, 0.05)


def test_a_step_that_does_not_contract_says_so_and_keeps_its_best_state():
    times = torch.tensor([0.0, 1.0])
    stiff = invert(lambda x, t: -3.0 * x, X, times, solver="euler", iterations=30)
    # The first guess is the given state: its error is that of the step from there.
    torch.testing.assert_close(stiff.residual.double(), (3 * X).square().mean(1).sqrt())
    torch.testing.assert_close(stiff.x, X)
    few = invert(waves, X, torch.tensor([0.0, 0.3]), solver="euler", iterations=2)
    many = invert(waves, X, torch.tensor([0.0, 0.3]), solver="euler", iterations=50)
    assert (few.residual > 1e-3).all() and (many.residual < 1e-5).all()


def test_what_cannot_be_inverted_is_named():
    for solver in ("multistep", "consistency"):
        with pytest.raises(ConfigError, match=solver):
            invert(waves, X, time_grid(3), solver=solver)
    with pytest.raises(ConfigError, match="iterations"):
        invert(waves, X, time_grid(3), iterations=0)
    for ends in ((0.5, 0.5), (-0.1, 1.0), (0.2, 1.1)):
        with pytest.raises(ConfigError, match="ends"):
            clamp_times(time_grid(3), *ends)
