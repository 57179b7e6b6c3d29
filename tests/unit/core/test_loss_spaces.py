"""All nine ways to train a network that predicts data, velocity or noise by an error of one of them."""

import itertools

import pytest
import torch
from torch import nn

from jitflow.codec.pixel import PixelCodec
from jitflow.core.path import PREDICTIONS, convert_velocity, interpolate, perfect_prediction, velocity_from_prediction
from jitflow.errors import ConfigError
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule

PAIRS = list(itertools.product(PREDICTIONS, PREDICTIONS))
# Where the squared error of a space is that of the prediction times this, without clamps.
FACTORS = {
    ("data", "data"): lambda t: 1 + 0 * t,
    ("data", "velocity"): lambda t: (1 - t) ** -2,
    ("data", "noise"): lambda t: t**2 / (1 - t) ** 2,
    ("velocity", "data"): lambda t: (1 - t) ** 2,
    ("velocity", "velocity"): lambda t: 1 + 0 * t,
    ("velocity", "noise"): lambda t: t**2,
    ("noise", "data"): lambda t: (1 - t) ** 2 / t**2,
    ("noise", "velocity"): lambda t: t**-2,
    ("noise", "noise"): lambda t: 1 + 0 * t,
}


@pytest.mark.parametrize(("prediction", "loss_on"), PAIRS)
def test_the_error_of_a_space_is_that_of_the_prediction_times_a_factor(prediction, loss_on):
    g = torch.Generator().manual_seed(0)
    # As many samples as the last dimension is long.
    x0, x1, error = (torch.randn(5, 2, 5, generator=g, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x_t = interpolate(x0, x1, t)
    true = perfect_prediction(x0, x1, prediction=prediction)
    given, wanted = (
        convert_velocity(
            velocity_from_prediction(output, x_t, t, prediction=prediction, t_eps=0.01), x_t, t, to=loss_on, t_eps=0.01
        )
        for output in (true + error, true)
    )
    torch.testing.assert_close(wanted, perfect_prediction(x0, x1, prediction=loss_on))
    squared = (given - wanted).square().flatten(1).mean(1)
    torch.testing.assert_close(squared, FACTORS[prediction, loss_on](t) * error.square().flatten(1).mean(1))


@pytest.mark.parametrize(("prediction", "loss_on"), PAIRS)
def test_an_ideal_network_has_no_loss_at_the_ends_of_the_path_either(prediction, loss_on):
    g = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(3, 2, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    x_t = interpolate(x0, x1, t)
    v = velocity_from_prediction(perfect_prediction(x0, x1, prediction=prediction), x_t, t, prediction=prediction)
    assert convert_velocity(v, x_t, t, to=loss_on).isfinite().all()


class Mlp(nn.Module):
    """Network of points of the plane."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, t, y):
        return self.layers(3 * torch.cat([x.flatten(1), t[:, None]], dim=1)).view_as(x)


CENTRE, STD = 0.6, 0.1


def points(num, generator):
    """Two Gaussians of the plane, at (0.6, 0.6) and (-0.6, -0.6)."""
    side = torch.randint(0, 2, (num, 1, 1, 1), generator=generator) * 2 - 1
    return CENTRE * side + STD * torch.randn(num, 2, 1, 1, generator=generator)


def mean_of_data(x_t, t):
    """The mean of the data given a path sample, in closed form."""
    time = t.view(-1, 1, 1, 1)
    variance = (1 - time).square() + (STD * time).square()
    # Log-odds of the two centres, then the mean of the posterior of each.
    side = torch.tanh((time * CENTRE * x_t / variance).sum(dim=1, keepdim=True))
    return side * CENTRE + time * STD**2 / variance * (x_t - time * side * CENTRE)


def energy_distance(a, b):
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


@pytest.mark.parametrize(("prediction", "loss_on"), PAIRS)
def test_each_learns_two_gaussians_of_the_plane_where_its_loss_weighs_most(prediction, loss_on):
    torch.manual_seed(0)
    settings = FlowSettings(prediction=prediction, loss_on=loss_on, time_kind="uniform", label_drop_prob=0.0)
    module = FlowModule(PixelCodec((1, 1), 2), Mlp(), num_classes=1, settings=settings)
    optimizer = torch.optim.Adam(module.net.parameters(), lr=1e-2, fused=True)
    labels = torch.zeros(256, dtype=torch.int64)
    g = torch.Generator().manual_seed(1)

    def excess():
        """Error in the space of the loss that an ideal network does not make."""
        x1 = points(4096, g)
        t = torch.rand(4096, generator=g)
        x_t = interpolate(torch.randn(x1.shape, generator=g), x1, t)
        mean = mean_of_data(x_t, t)
        noise = (x_t - t.view(-1, 1, 1, 1) * mean) / (1 - t.view(-1, 1, 1, 1))
        ideal = perfect_prediction(noise, mean, prediction=prediction)
        outputs = (module(x_t, t, t), ideal)
        given, best = (convert_velocity(module.velocity_of(o, x_t, t), x_t, t, to=loss_on) for o in outputs)
        return float((given - best).detach().square().mean())

    before = excess()
    for i in range(150):
        x1 = points(256, g)
        t = module.sample_timestep(256).flatten()
        loss = module.flow_loss(x1, labels, t, torch.randn(x1.shape, generator=g)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - i / 150)
        optimizer.step()
    with module.sampling(num_sampling_steps=20):
        drawn = module.generate(labels, use_ema=False).flatten(1)
    true, noise = points(512, g).flatten(1), torch.randn(256, 2, generator=g)
    assert excess() < 0.15 * before
    # A noise prediction's error of the data counts up to 400 times near the noise, where so short a training spends it.
    if (prediction, loss_on) != ("noise", "data"):
        assert energy_distance(drawn, true) < 0.35 * energy_distance(noise, true)


def test_an_unknown_space_is_named():
    with pytest.raises(ConfigError, match="loss_on"):
        FlowSettings(loss_on="image")
