"""Power-function averages against closed forms, quadrature and the weighted sum of their history."""

import itertools
import math

import numpy as np
import pytest
import torch

from jitflow.core.ema import copy_parameters
from jitflow.core.power_ema import (
    MAX_WIDTH,
    exponent_from_width,
    power_ema_decay,
    predicted_error,
    profile_inner_product,
    reconstruction_coefficients,
    update_power_ema_,
    width_from_exponent,
)
from jitflow.errors import ConfigError


def profile(s, t, gamma):
    return np.where(s <= t, (gamma + 1) / t * (s / t) ** gamma, 0.0)


def integral(values, s):
    return float(np.trapezoid(values, s))


# ------------------------------------------------------------------------------------------ width and exponent


@pytest.mark.parametrize("gamma", [0.0, 1e-6, 0.5, 6.94, 16.97, 300.0, 1e5, 1e8])
def test_exponent_of_the_width_of_an_exponent(gamma):
    # Near 0.2887 the width says least about the exponent; the tolerance is what its last digit is worth there.
    assert exponent_from_width(width_from_exponent(gamma)) == pytest.approx(gamma, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("width", [1e-6, 0.01, 0.05, 0.1, 0.15, 0.25, 0.288, MAX_WIDTH])
def test_width_of_the_exponent_of_a_width(width):
    assert width_from_exponent(exponent_from_width(width)) == pytest.approx(width, rel=1e-12)


def test_the_papers_exponents():
    # Karras et al. 2024, section 3: gamma = 6.94 and 16.97 for widths 0.10 and 0.05.
    assert exponent_from_width(0.10) == pytest.approx(6.94, abs=0.005)
    assert exponent_from_width(0.05) == pytest.approx(16.97, abs=0.005)


@pytest.mark.parametrize("gamma", [0.0, 2.5, 16.97])
def test_width_is_the_standard_deviation_of_the_profile(gamma):
    s = np.linspace(0, 1, 200_001)
    p = profile(s, 1.0, gamma)
    mean = integral(p * s, s)
    assert width_from_exponent(gamma) == pytest.approx(math.sqrt(integral(p * (s - mean) ** 2, s)), rel=1e-7)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.2888, 1.0, math.nan, math.inf])
def test_width_out_of_range(width):
    with pytest.raises(ConfigError, match="relative width"):
        exponent_from_width(width)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_exponent_out_of_range(gamma):
    with pytest.raises(ConfigError, match="exponent"):
        width_from_exponent(gamma)
    with pytest.raises(ConfigError, match="exponent"):
        power_ema_decay(2, gamma)


# ------------------------------------------------------------------------------------------------- the update


def run_average(history, gamma):
    params = {"a": history[0].clone()}
    average = {"a": torch.full_like(history[0], math.pi)}
    for step, value in enumerate(history, start=1):
        params["a"].copy_(value)
        update_power_ema_(average, params, step, gamma)
    return average["a"]


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94])
def test_average_is_the_history_weighted_by_the_profiles_mass_in_each_step(gamma):
    history = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    bounds = (np.arange(201) / 200) ** (gamma + 1)
    expected = np.diff(bounds) @ history.double().numpy()
    np.testing.assert_allclose(run_average(history, gamma).numpy(), expected, atol=2e-6)


def test_average_of_a_ramp():
    # Of 1, 2, ... t with gamma = 1, weights (2 s - 1) / t^2: sum s (2 s - 1) = t (t + 1) (4 t - 1) / 6.
    t = 300
    average = run_average(torch.arange(1.0, t + 1).view(-1, 1), 1.0)
    assert average.item() == pytest.approx((t + 1) * (4 * t - 1) / (6 * t), rel=1e-5)
    # With gamma = 0 it is the mean.
    assert run_average(torch.arange(1.0, t + 1).view(-1, 1), 0.0).item() == pytest.approx((t + 1) / 2, rel=1e-5)


def test_the_first_step_copies():
    params = {"a": torch.randn(7), "b": torch.randn(2, dtype=torch.bfloat16)}
    averages = copy_parameters({name: torch.zeros_like(p) for name, p in params.items()})
    update_power_ema_(averages, params, 1, 6.94)
    assert torch.equal(averages["a"], params["a"])
    assert torch.equal(averages["b"], params["b"].float())


def test_steps_count_from_one():
    with pytest.raises(ConfigError, match="from 1"):
        update_power_ema_({}, {}, 0, 1.0)


# ---------------------------------------------------------------------------------------------- inner products


@pytest.mark.parametrize(
    ("a", "b"),
    [((1000, 6.94), (1000, 16.97)), ((800, 6.94), (1000, 16.97)), ((1000, 0.0), (300, 2.5)), ((50, 1.0), (50, 1.0))],
)
def test_inner_product_against_quadrature(a, b):
    # The grid ends where the shorter profile does; beyond, the product is zero.
    s = np.linspace(0, min(a[0], b[0]), 400_001)
    expected = integral(profile(s, *a) * profile(s, *b), s)
    assert float(profile_inner_product(*a, *b)) == pytest.approx(expected, rel=1e-7)
    assert float(profile_inner_product(*b, *a)) == pytest.approx(expected, rel=1e-7)


def test_inner_product_of_long_and_narrow_profiles_is_finite():
    value = profile_inner_product(10**9, 1e5, 10**9 - 1000, 1e5)
    assert 0 < float(value) < float(profile_inner_product(10**9, 1e5, 10**9, 1e5)) < math.inf


# --------------------------------------------------------------------------------------------- reconstruction

NUM_STEPS = 20_000


def snapshot_grid(num, *, last=NUM_STEPS, widths=(0.05, 0.10)):
    every = last // num
    steps = [every * (i + 1) for i in range(num) for _ in widths]
    return steps, [exponent_from_width(w) for _ in range(num) for w in widths]


@pytest.mark.parametrize("which", [0, 17, 63])
def test_a_stored_average_is_itself(which):
    steps, gammas = snapshot_grid(32)
    coefficients = reconstruction_coefficients(steps, gammas, steps[which], gammas[which])
    assert coefficients.tolist() == [float(i == which) for i in range(64)]
    assert predicted_error(steps, gammas, steps[which], gammas[which], coefficients) < 1e-7


def test_nearly_a_stored_average_is_nearly_itself():
    # The same through the least squares, which the exact case does not enter.
    steps, gammas = snapshot_grid(32)
    coefficients = reconstruction_coefficients(steps, gammas, steps[40], gammas[40] * (1 + 1e-9))
    expected = torch.eye(64, dtype=torch.float64)[40]
    torch.testing.assert_close(coefficients, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num", [1, 2, 32, 500])
@pytest.mark.parametrize("width", [0.03, 0.07, 0.25])
def test_coefficients_sum_to_one_and_stay_moderate(num, width):
    steps, gammas = snapshot_grid(num)
    coefficients = reconstruction_coefficients(steps, gammas, steps[-1], exponent_from_width(width))
    assert float(coefficients.sum()) == pytest.approx(1, abs=1e-10)
    assert float(coefficients.abs().sum()) < 50


def test_a_snapshot_given_twice_does_no_harm():
    steps, gammas = snapshot_grid(32)
    target = steps[-1], exponent_from_width(0.08)
    once = reconstruction_coefficients(steps, gammas, *target)
    twice = reconstruction_coefficients(steps * 2, gammas * 2, *target)
    torch.testing.assert_close(twice[:64] + twice[64:], once, atol=1e-7, rtol=0)


def test_no_other_coefficients_of_sum_one_come_nearer():
    steps, gammas = snapshot_grid(8)
    target = steps[-1], exponent_from_width(0.15)
    best = reconstruction_coefficients(steps, gammas, *target)
    least = predicted_error(steps, gammas, *target, best)
    for seed in range(20):
        change = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 1e-2
        assert predicted_error(steps, gammas, *target, best + change - change.mean()) > least


def test_predicted_error_against_quadrature():
    steps, gammas = snapshot_grid(8, last=800)
    target = 800, exponent_from_width(0.2)
    c = reconstruction_coefficients(steps, gammas, *target)
    s = np.linspace(0, 800, 800_001)
    # A grid point on a jump counts to its left, so that the error is half a cell in each.
    p = profile(s, *target)
    misfit = sum(x * profile(s, t, g) for x, t, g in zip(c.tolist(), steps, gammas, strict=True)) - p
    expected = math.sqrt(integral(misfit**2, s) / integral(p**2, s))
    assert expected > 0.01
    assert predicted_error(steps, gammas, *target, c) == pytest.approx(expected, rel=1e-3)


def test_more_snapshots_predict_less_error():
    def error(num):
        steps, gammas = snapshot_grid(num)
        target = steps[-1], exponent_from_width(0.15)
        return predicted_error(steps, gammas, *target, reconstruction_coefficients(steps, gammas, *target))

    errors = [error(num) for num in (4, 8, 16, 32, 64)]
    assert all(later < earlier / 2 for earlier, later in itertools.pairwise(errors))


WIDTHS = (0.05, 0.06, 0.075, 0.09, 0.10, 0.12, 0.15)


@pytest.fixture(scope="module")
def tracked():
    """Averages of 300 weights on a random walk, tracked step by step in float64, by step and width."""
    rng = np.random.default_rng(0)
    weights, averages = np.zeros(300), np.zeros((len(WIDTHS), 300))
    exponents = np.array([exponent_from_width(w) for w in WIDTHS])[:, None]
    kept = {}
    for step in range(1, NUM_STEPS + 1):
        weights += rng.normal(0, 0.01, 300)
        decay = (1 - 1 / step) ** (exponents + 1)
        averages = decay * averages + (1 - decay) * weights
        if step % 625 == 0 or step % 400 == 0:
            kept.update({(step, width): average for width, average in zip(WIDTHS, averages, strict=True)})
    return kept


@pytest.mark.parametrize("width", WIDTHS)
# The end with 32 snapshots, and an intermediate snapshot with 32 before it.
@pytest.mark.parametrize(("num", "target_step"), [(32, NUM_STEPS), (50, 32 * 400)])
def test_averages_of_a_random_walk_from_its_snapshots(tracked, width, num, target_step):
    steps, gammas = snapshot_grid(num)
    # As the files: float32.
    stored = np.stack([tracked[s, w] for s, w in zip(steps, [0.05, 0.10] * num, strict=True)]).astype(np.float32)
    gamma = exponent_from_width(width)
    coefficients = reconstruction_coefficients(steps, gammas, target_step, gamma)
    wanted = tracked[target_step, width]
    error = np.linalg.norm(coefficients.numpy() @ stored - wanted) / np.linalg.norm(wanted)
    predicted = predicted_error(steps, gammas, target_step, gamma, coefficients)
    assert error < 1e-3
    assert predicted < 0.02
    assert error <= max(predicted, 1e-7)


def test_between_snapshots_the_predicted_error_is_large():
    steps, gammas = snapshot_grid(32)
    target = 10_312, exponent_from_width(0.07)
    coefficients = reconstruction_coefficients(steps, gammas, *target)
    assert predicted_error(steps, gammas, *target, coefficients) > 0.1


@pytest.mark.parametrize(
    ("steps", "gammas", "target", "message"),
    [
        ([], [], (1, 1.0), "got 0 and 0"),
        ([1, 2], [1.0], (1, 1.0), "got 2 and 1"),
        ([0], [1.0], (1, 1.0), "from 1"),
        ([1], [1.0], (0, 1.0), "from 1"),
        ([1], [-1.0], (1, 1.0), "exponent"),
        ([1], [1.0], (1, math.nan), "exponent"),
    ],
)
def test_bad_profiles(steps, gammas, target, message):
    with pytest.raises(ConfigError, match=message):
        reconstruction_coefficients(steps, gammas, *target)
