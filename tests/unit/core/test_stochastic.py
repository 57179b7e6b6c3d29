"""Sampling by the stochastic equation, on data N(m, s^2) whose score is known (see test_solver.py)."""

import math

import pytest
import torch
from torch import nn

from jitflow.codec.pixel import PixelCodec
from jitflow.core.condition import Condition
from jitflow.core.seeding import mix_seeds, noise_from_seeds, use_seeds
from jitflow.core.stochastic import sde_drift, sde_noise_std
from jitflow.errors import ConfigError
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule

M, S, SIGMA = 0.7, 0.4, 1.5


def variance(t):
    return t**2 * S**2 + (1 - t) ** 2 * SIGMA**2


def gaussian_velocity(x, t):
    t = t.view(-1, *[1] * (x.ndim - 1))
    return M + (t * S**2 - (1 - t) * SIGMA**2) / variance(t) * (x - t * M)


class Gaussian(nn.Module):
    """Network that knows the velocity."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x, t, y):
        return self.one * gaussian_velocity(x, t)


def module_of(**settings):
    flow = FlowSettings(prediction="velocity", noise_scale=SIGMA, **settings)
    return FlowModule(PixelCodec((8, 8), 1), Gaussian(), num_classes=1, settings=flow)


def test_the_drift_is_the_velocity_and_half_the_score_times_the_diffusion():
    g = torch.Generator().manual_seed(0)
    # As many samples as the last dimension is long.
    x = torch.randn(6, 6, generator=g, dtype=torch.float64)
    t = torch.linspace(0, 0.95, 6, dtype=torch.float64)
    for s in (0.0, 0.5, 2.0):
        time = t[:, None]
        score = -(x - time * M) / variance(time)
        diffusion = s * (1 - time) * SIGMA**2
        v = gaussian_velocity(x, t)
        torch.testing.assert_close(sde_drift(v, x, t, s), v + diffusion / 2 * score)
        std = sde_noise_std(0.3, 0.4, strength=s, noise_scale=SIGMA)
        assert std == pytest.approx(math.sqrt(s * 0.7 * SIGMA**2 * 0.1))


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_samples_have_the_distribution_of_the_data(solver, strength):
    module = module_of(sampling_method=solver, num_sampling_steps=80, sde=strength)
    with use_seeds(list(range(200))):
        x = module.generate(torch.zeros(200, dtype=torch.int64), use_ema=False)
    # 12,800 numbers: standard errors 0.004 of the mean and 0.6 % of the deviation; the rest is the step's error.
    assert x.mean().item() == pytest.approx(M, abs=0.03)
    assert x.std().item() == pytest.approx(S, rel=0.08)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_every_step_follows_its_recursion(solver):
    """Mean and variance of every step in closed form, since each is affine; only the last has no noise."""
    module = module_of(sampling_method=solver, num_sampling_steps=10, sde=2.0)

    def slope(t, s):
        return (t * S**2 - (1 - t) * SIGMA**2 - s / 2 * (1 - t) * SIGMA**2) / variance(t)

    states = []
    with use_seeds(list(range(200))), module.watch_sampling(lambda done, total, t, x: states.append(x.clone())):
        module.generate(torch.zeros(200, dtype=torch.int64), use_ema=False)
    # Of the distance to the mean of the path, t M.
    mean, var = 0.0, SIGMA**2
    for i, x in enumerate(states):
        t, dt, s = i / 10, 0.1, 2.0 if i < 9 else 0.0
        factor = 1 + dt * slope(t, s)
        if solver == "heun" and i < 9:
            factor = 1 + dt / 2 * (slope(t, s) + slope(t + dt, s) * factor)
        mean, var = factor * mean, factor**2 * var
        assert x.mean().item() - (t + dt) * M == pytest.approx(mean, abs=0.03)
        assert x.std().item() == pytest.approx(math.sqrt(var), rel=0.03)
        # The noise of a step is added when the next begins.
        var += s * (1 - t) * SIGMA**2 * dt


def test_a_seed_names_a_sample_and_known_parts_stay():
    module = module_of(sampling_method="heun", num_sampling_steps=6, sde=1.0)
    labels = torch.zeros(3, dtype=torch.int64)
    with use_seeds([4, 5, 6]):
        together = module.generate(labels, use_ema=False)
    with use_seeds([6]):
        torch.testing.assert_close(module.generate(labels[:1], use_ema=False), together[2:])
    known = torch.full((3, 1, 8, 8), 0.25)
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    mask[..., 0] = True
    with use_seeds([4, 5, 6]):
        x = module.generate_condition(Condition(labels, known, mask), use_ema=False)
    torch.testing.assert_close(x[..., 0], known[..., 0])


def test_the_consistency_solver_jumps_to_the_data_and_adds_fresh_noise_between_steps():
    module = module_of(sampling_method="consistency", num_sampling_steps=2)
    seeds, times = [4, 5, 6], (0.0, 0.5)
    with use_seeds(seeds):
        sampled = module.generate(torch.zeros(3, dtype=torch.int64), use_ema=False)

    def jump(x, t):
        return x + (1 - t) * gaussian_velocity(x, torch.full((len(x),), t))

    x = jump(SIGMA * noise_from_seeds(module.codec.shape, seeds), times[0])
    again = noise_from_seeds(module.codec.shape, [mix_seeds(s, 1) for s in seeds])
    torch.testing.assert_close(sampled, jump(0.5 * x + 0.5 * SIGMA * again, times[1]))
    # A seed names an image, in a batch or alone.
    with use_seeds(seeds[1:2]):
        torch.testing.assert_close(module.generate(torch.zeros(1, dtype=torch.int64), use_ema=False), sampled[1:2])
    # One step is Euler's.
    one = [module_of(sampling_method=solver, num_sampling_steps=1) for solver in ("consistency", "euler")]
    with use_seeds(seeds):
        first, second = (m.generate(torch.zeros(3, dtype=torch.int64), use_ema=False) for m in one)
    torch.testing.assert_close(first, second)


def test_settings_that_cannot_be_are_named():
    for settings, name in (
        ({"sde": -1.0}, "sde"),
        ({"sde": float("inf")}, "sde"),
        ({"sde": 1.0, "churn": 1.0}, "churn"),
        ({"sde": 1.0, "sampling_method": "multistep"}, "multistep"),
        ({"churn": 1.0, "sampling_method": "consistency"}, "consistency"),
    ):
        with pytest.raises(ConfigError, match=name):
            module_of(**settings)

    class Own(FlowModule):
        def _euler_step(self, z, t, t_next, labels):
            return z

    flow = FlowSettings(sampling_method="euler", sde=1.0)
    module = Own(PixelCodec((8, 8), 1), Gaussian(), num_classes=1, settings=flow)
    with pytest.raises(ConfigError, match="overrides"):
        module.generate(torch.zeros(1, dtype=torch.int64), use_ema=False)
