"""Solvers on a flow with a known end: data N(m, s^2), noise N(0, 1), linear path.

x_t = t x1 + (1 - t) x0 is normal with mean t m and variance q = t^2 s^2 + (1 - t)^2. Conditional means of the two
ends given x_t are affine in it, and their difference is the velocity
    v(x, t) = E[x1 - x0 | x_t = x] = m + (t s^2 - (1 - t)) / q * (x - t m),
whose flow keeps the standardised state (x - t m) / sqrt(q): it carries x0 to m + s x0.
"""

import pytest
import torch

from jitflow.core.solver import ODE_SOLVERS, SOLVERS, get_solver, integrate
from jitflow.core.times import shift_times
from jitflow.errors import ConfigError

M, S = 1.7, 0.4
X0 = torch.tensor([[-1.5, 0.3], [0.9, 2.1], [-0.2, 0.0]], dtype=torch.float64)


def gaussian_velocity(x, t):
    assert t.shape == (len(x),)
    t = t.view(-1, 1)
    variance = t**2 * S**2 + (1 - t) ** 2
    return M + (t * S**2 - (1 - t)) / variance * (x - t * M)


def grid(num_steps, shift=1.0):
    return shift_times(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64), shift)


def error(solver, num_steps, shift=1.0):
    end = integrate(gaussian_velocity, X0, grid(num_steps, shift), solver=solver)
    return (end - (M + S * X0)).abs().max().item()


@pytest.mark.parametrize("shift", [1.0, 2.0])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 3), ("multistep", 2)])
def test_order_of_convergence(solver, order, shift):
    # The midpoint rule gains an order here: its local error in h^3 is (x''' + 3 a x'') / 24 with x' = a(t) x, and
    # for x = sqrt(q) with q of second degree that is 0 (differentiate x'^2 + x x'' = q'' / 2).
    coarse, fine = (error(solver, num_steps, shift) for num_steps in (300, 600))
    assert coarse / fine == pytest.approx(2**order, rel=0.06)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("multistep", 2)])
def test_order_of_convergence_without_luck(solver, order):
    # x' = x^2 / 2 carries x0 to x0 / (1 - x0 t / 2).
    x0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)

    def error(num_steps):
        end = integrate(lambda x, t: 0.5 * x**2, x0, grid(num_steps), solver=solver)
        return (end - x0 / (1 - 0.5 * x0)).abs().max().item()

    assert error(200) / error(400) == pytest.approx(2**order, rel=0.06)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_reaches_the_end_of_the_path(solver):
    assert error(solver, 200) < (2e-2 if solver == "euler" else 2e-4)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_evaluations_and_progress(solver, num_steps):
    calls, seen = [], []

    def velocity(x, t):
        calls.append(t[0].item())
        return gaussian_velocity(x, t)

    times = grid(num_steps)
    end = integrate(velocity, X0, times, solver=solver, on_step=lambda *args: seen.append(args))
    assert len(calls) == SOLVERS[solver].num_evaluations(num_steps)
    assert max(calls) < 1  # where the conversion from data divides by zero
    assert [(done, total) for done, total, _, _ in seen] == [(i + 1, num_steps) for i in range(num_steps)]
    assert [time for _, _, time, _ in seen] == times[1:].tolist()
    assert torch.equal(seen[-1][3], end)


def test_counts_of_evaluations():
    assert {name: solver.num_evaluations(50) for name, solver in SOLVERS.items()} == {
        "euler": 50,
        "heun": 99,
        "midpoint": 100,
        "multistep": 50,
        "consistency": 50,
    }


def test_heun_ends_with_euler():
    times = grid(6)
    before = integrate(gaussian_velocity, X0, times[:6], solver="euler")
    assert not torch.equal(before, integrate(gaussian_velocity, X0, times[:6], solver="heun"))
    states = []
    integrate(gaussian_velocity, X0, times, solver="heun", on_step=lambda *args: states.append(args[3]))
    dt, t = (times[6] - times[5]).item(), times[5].expand(3)
    torch.testing.assert_close(states[5], states[4] + dt * gaussian_velocity(states[4], t), rtol=0, atol=1e-14)


def test_one_step_of_each_by_hand():
    def velocity(x, t):
        return 2 * x + t.view(-1, 1)

    x = torch.tensor([[1.0]])
    steps = torch.tensor([0.0, 0.5, 1.0])
    # From 1 the velocity is 2; Euler reaches 2 at 0.5, where the velocity is 4.5; (2 + 4.5) / 2 = 3.25.
    by_hand = {
        "euler": [2.0, 2.0 + 0.5 * 4.5],
        "heun": [1 + 0.5 * 3.25, 2.625 + 0.5 * (2 * 2.625 + 0.5)],
        # Half a step reaches 1.5 at 0.25, where the velocity is 3.25.
        "midpoint": [2.625, 2.625 + 0.5 * (2 * (2.625 + 0.25 * 5.75) + 0.75)],
        # The second step extrapolates: 4.5 + (4.5 - 2) / 2.
        "multistep": [2.0, 2.0 + 0.5 * 5.75],
    }
    for solver, expected in by_hand.items():
        states = []
        integrate(velocity, x, steps, solver=solver, on_step=lambda *args, states=states: states.append(args[3].item()))
        assert states == pytest.approx(expected), solver


def test_multistep_on_uneven_steps_is_exact_for_a_velocity_linear_in_time():
    times, states = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.0], dtype=torch.float64), []
    integrate(
        lambda x, t: t.view(-1, 1),
        torch.zeros(1, 1, dtype=torch.float64),
        times,
        solver="multistep",
        on_step=lambda *args: states.append(args[3].item()),
    )
    # After Euler's first step, which stays at 0.
    assert states == pytest.approx([(t**2 - 0.1**2) / 2 for t in times[1:].tolist()], abs=1e-12)


def test_multistep_forgets_between_trajectories():
    first, second = (integrate(gaussian_velocity, X0, grid(5), solver="multistep") for _ in range(2))
    assert torch.equal(first, second)


def test_steps_of_the_caller_replace_the_solver_s():
    def add(amount):
        return lambda velocity, x, t, t_next: x + amount

    zero, times = torch.zeros(1, 1), grid(4)
    assert integrate(gaussian_velocity, zero, times, solver="heun", step=add(1.0), last_step=add(10.0)).item() == 13
    # Euler has no last step of its own, so none is replaced.
    assert integrate(gaussian_velocity, zero, times, solver="euler", step=add(1.0), last_step=add(10.0)).item() == 4


def test_unknown_solver_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean euler"):
        get_solver("eular")
    with pytest.raises(ConfigError, match="unknown solver"):
        integrate(gaussian_velocity, X0, grid(2), solver="rk45")


@pytest.mark.parametrize(
    "times", [[0.0], [], [0.0, 0.5, 0.5, 1.0], [1.0, 0.0], [-0.1, 1.0], [0.0, 1.1], [0, float("nan")]]
)
def test_bad_times(times):
    with pytest.raises(ConfigError, match="increasing"):
        integrate(gaussian_velocity, X0, torch.tensor(times), solver="euler")


def test_the_consistency_solver_needs_noise_between_its_steps():
    with pytest.raises(ConfigError, match="go_back"):
        integrate(gaussian_velocity, X0, grid(2), solver="consistency")
    # Every step ends at the data, wherever its interval ends.
    ends = []

    def go_back(step, x, t, t_next):
        ends.append(x)
        return torch.full_like(x, 2.0), t

    last = integrate(lambda x, t: 3 - x, X0, grid(2), solver="consistency", go_back=go_back)
    torch.testing.assert_close(ends[0], torch.full_like(X0, 3.0))
    torch.testing.assert_close(last, torch.full_like(X0, 2.0 + 0.5 * (3 - 2.0)))
