"""Conversions of the linear path, in float64, with as many samples as the last dimension has entries."""

import pytest
import torch

from jitflow.core import path
from jitflow.errors import ConfigError

B = 5
T = torch.tensor([0.0, 0.02, 0.5, 0.97, 1.0], dtype=torch.float64)
EPS = 0.05
FREE = slice(2, 3)  # samples where no clamp acts
CONVERSIONS = [
    path.velocity_from_data,
    path.data_from_velocity,
    path.velocity_from_noise,
    path.noise_from_velocity,
    path.noise_from_data,
    path.data_from_noise,
]


@pytest.fixture
def ends():
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, B, 3, B, generator=generator, dtype=torch.float64)
    return x0, x1, path.interpolate(x0, x1, T)


def test_interpolate_ends_and_each_sample_at_its_own_time(ends):
    x0, x1, x_t = ends
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[-1], x1[-1])
    for i, t in enumerate(T.tolist()):
        torch.testing.assert_close(x_t[i], x0[i] + t * (x1[i] - x0[i]))


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (path.velocity_from_data, path.data_from_velocity),
        (path.data_from_velocity, path.velocity_from_data),
        (path.velocity_from_noise, path.noise_from_velocity),
        (path.noise_from_velocity, path.velocity_from_noise),
    ],
)
def test_round_trip_at_every_time_clamp_included(ends, there, back):
    x0, _, x_t = ends
    torch.testing.assert_close(back(there(x0, x_t, T), x_t, T), x0, rtol=0, atol=1e-12)


def test_velocity_is_the_difference_of_the_ends_scaled_inside_the_clamp(ends):
    x0, x1, x_t = ends
    share = torch.tensor([1.0, 1.0, 1.0, 0.03 / EPS, 0.0]).double().view(B, 1, 1)
    torch.testing.assert_close(path.velocity_from_data(x1, x_t, T, t_eps=EPS), share * (x1 - x0))
    share = torch.tensor([0.0, 0.02 / EPS, 1.0, 1.0, 1.0]).double().view(B, 1, 1)
    torch.testing.assert_close(path.velocity_from_noise(x0, x_t, T, t_eps=EPS), share * (x1 - x0))


def test_ends_from_each_other(ends):
    x0, x1, x_t = ends
    share = torch.tensor([1.0, 1.0, 1.0, 0.03 / EPS, 0.0]).double().view(B, 1, 1)
    torch.testing.assert_close(path.noise_from_data(x1, x_t, T, t_eps=EPS), share * x0)
    share = torch.tensor([0.0, 0.02 / EPS, 1.0, 1.0, 1.0]).double().view(B, 1, 1)
    torch.testing.assert_close(path.data_from_noise(x0, x_t, T, t_eps=EPS), share * x1)


@pytest.mark.parametrize("prediction", path.PREDICTIONS)
def test_a_perfect_network_gives_the_velocity_whatever_it_predicts(ends, prediction):
    x0, x1, x_t = (x[FREE] for x in ends)
    output = path.perfect_prediction(x0, x1, prediction=prediction)
    v = path.velocity_from_prediction(output, x_t, T[FREE], prediction=prediction, t_eps=EPS)
    torch.testing.assert_close(v, x1 - x0, rtol=0, atol=1e-12)


def test_the_clamp_is_the_one_asked_for(ends):
    x0, x1, x_t = ends
    for prediction, row in (("data", 3), ("noise", 1)):
        output = path.perfect_prediction(x0, x1, prediction=prediction)
        v = path.velocity_from_prediction(output, x_t, T, prediction=prediction, t_eps=0.01)
        torch.testing.assert_close(v[row], x1[row] - x0[row])


@pytest.mark.parametrize("shape", [(), (1,), (B - 1,), (B, 1), (B, 1, 1), (1, B)])
@pytest.mark.parametrize("convert", CONVERSIONS, ids=lambda f: f.__name__)
def test_a_time_of_another_shape_is_refused(ends, convert, shape):
    x0, _, x_t = ends
    with pytest.raises(ValueError, match=r"t must have shape \(5,\)"):
        convert(x0, x_t, torch.full(shape, 0.5))
    with pytest.raises(ValueError, match=r"t must have shape \(5,\)"):
        path.interpolate(x0, x_t, torch.full(shape, 0.5))


def test_unknown_prediction():
    x = torch.zeros(1, 1)
    with pytest.raises(ConfigError, match="'epsilon'"):
        path.perfect_prediction(x, x, prediction="epsilon")
    with pytest.raises(ConfigError, match="'epsilon'"):
        path.velocity_from_prediction(x, x, torch.zeros(1), prediction="epsilon")
