"""The consistency function of a flow: exact at the data, and one Euler step of the sampler elsewhere."""

import torch

from jitflow.core.consistency import end_of_trajectory, nearer_to_data
from jitflow.core.loss import pseudo_huber
from jitflow.core.path import interpolate, velocity_from_data
from jitflow.core.solver import integrate
from jitflow.core.times import time_grid


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_identity_at_the_data_and_the_predicted_data_before_the_clamp():
    x_t, x1_pred = draw(4, 4), draw(4, 4, seed=1)
    t = torch.tensor([0.0, 0.5, 0.98, 1.0], dtype=torch.float64)
    reached = end_of_trajectory(velocity_from_data(x1_pred, x_t, t, t_eps=0.05), x_t, t)
    torch.testing.assert_close(reached[:2], x1_pred[:2])
    # Inside the clamp it goes over from the predicted data to the state: 0.02 / 0.05 of the way are left.
    torch.testing.assert_close(reached[2], x_t[2] + 0.4 * (x1_pred[2] - x_t[2]))
    assert torch.equal(reached[3], x_t[3])


def test_one_step_of_euler_is_the_function():
    x = draw(3, 2)
    sampled = integrate(lambda x, t: -x, x, time_grid(1), solver="euler")
    torch.testing.assert_close(sampled, end_of_trajectory(-x, x, torch.zeros(3)))


def test_the_nearer_state_is_of_the_same_noise_and_data():
    # As many samples as the last dimension is long.
    x0, x1 = draw(4, 4), draw(4, 4, seed=1)
    t, share = (torch.tensor(v, dtype=torch.float64) for v in ([0.0, 0.3, 0.3, 1.0], [0.25, 0.5, 1.0, 0.5]))
    x_r, r = nearer_to_data(interpolate(x0, x1, t), x1, t, share)
    torch.testing.assert_close(r, torch.tensor([0.25, 0.65, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(x_r, interpolate(x0, x1, r))


def test_the_pseudo_huber_loss_is_a_root_of_large_errors_and_a_square_of_small_ones():
    loss = pseudo_huber(torch.tensor([9.0, 1e-6]), scale=0.1)
    torch.testing.assert_close(loss, torch.tensor([(9 + 0.01) ** 0.5 - 0.1, 1e-6 / 0.2]), rtol=1e-3, atol=0)
