"""Classifier-free guidance: what it computes, when, and at what cost."""

import pytest
import torch

from jitflow.core.guidance import check_interval, guidance_weight, guided_velocity
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError

NULL = 9


class Field:
    """A velocity that depends on every argument, and remembers how it was called."""

    def __init__(self):
        self.labels = []

    def __call__(self, x, t, label):
        self.labels.append(label.tolist())
        return torch.sin(x + label.view(-1, 1)) + t.view(-1, 1) ** 2


@pytest.fixture
def state():
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.tensor([3, 0, 8, NULL])


def test_scale_one_is_the_conditional_velocity_in_one_pass(state):
    x, label = state
    t = torch.full((4,), 0.5)
    field = Field()
    v = guided_velocity(field, x, t, label, null_label=NULL, scale=1.0)
    assert torch.equal(v, Field()(x, t, label))
    assert field.labels == [label.tolist()]


@pytest.mark.parametrize(("scale", "labels"), [(1.0, 4), (2.0, 8)])
def test_a_time_on_an_accelerator_is_not_read(scale, labels):
    # A meta tensor has no value to read; that would raise, as on an accelerator it would wait.
    x, t, label = torch.zeros(4, 2, device="meta"), torch.zeros(4, device="meta"), torch.zeros(4, device="meta").long()
    sizes = []

    def velocity(x, t, label):
        sizes.append(len(label))
        return x

    guided_velocity(velocity, x, t, label, null_label=NULL, scale=scale)
    assert sizes == [labels]


@pytest.mark.parametrize("t", [0.0, 0.1, 0.8, 1.0])
def test_outside_the_interval_no_unconditional_pass(state, t):
    x, label = state
    t = torch.full((4,), t)
    field = Field()
    v = guided_velocity(field, x, t, label, null_label=NULL, scale=3.0, interval=(0.1, 0.8))
    assert torch.equal(v, Field()(x, t, label))
    assert field.labels == [label.tolist()]


def test_one_batch_of_both_equals_two_passes(state):
    x, label = state
    t = torch.tensor([0.2, 0.3, 0.4, 0.5])
    field, plain = Field(), Field()
    v = guided_velocity(field, x, t, label, null_label=NULL, scale=2.5, interval=(0.1, 1.0))
    v_cond, v_uncond = plain(x, t, label), plain(x, t, torch.full((4,), NULL))
    torch.testing.assert_close(v, v_uncond + 2.5 * (v_cond - v_uncond), rtol=0, atol=1e-14)
    assert field.labels == [label.tolist() + [NULL] * 4]


def test_each_sample_has_the_weight_of_its_own_time(state):
    x, label = state
    t = torch.tensor([0.05, 0.5, 0.95, 0.5])
    plain = Field()
    v = guided_velocity(Field(), x, t, label, null_label=NULL, scale=2.0, interval=(0.1, 0.9))
    v_cond, v_uncond = plain(x, t, label), plain(x, t, torch.full((4,), NULL))
    weight = torch.tensor([[1.0], [2.0], [1.0], [2.0]])
    torch.testing.assert_close(v, v_uncond + weight * (v_cond - v_uncond))


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_only_the_leading_channels_are_guided(state, scale):
    x, label = state
    t = torch.tensor([0.2, 0.3, 0.4, 0.95])
    arguments = {"null_label": NULL, "scale": scale, "interval": (0.1, 0.9)}
    everything = guided_velocity(Field(), x, t, label, **arguments)
    v_cond = Field()(x, t, label)
    for channels in (1, 3):
        v = guided_velocity(Field(), x, t, label, **arguments, channels=channels)
        assert torch.equal(v[:, :channels], everything[:, :channels])
        torch.testing.assert_close(v[:, channels:], v_cond[:, channels:], rtol=0, atol=1e-14)
    for channels in (4, 100, None):
        assert torch.equal(guided_velocity(Field(), x, t, label, **arguments, channels=channels), everything)
    with pytest.raises(ConfigError, match=r"guided channels .*got 0"):
        guided_velocity(Field(), x, t, label, **arguments, channels=0)


@pytest.mark.parametrize("num_steps", [10, 20, 40, 250])
def test_a_grid_point_on_the_lower_end_is_outside(num_steps):
    grid = time_grid(num_steps)
    edge = num_steps // 10
    assert grid[edge].item() == pytest.approx(0.1)
    weight = guidance_weight(grid, 3.0, (0.1, 1.0))
    expected = [1.0] * (edge + 1) + [3.0] * (num_steps - edge - 1) + [1.0]
    assert weight.tolist() == expected
    assert weight.dtype == torch.float32
    # The trap: the Python float is not the float32, and would let the edge in.
    if num_steps in (20, 40):
        assert grid[edge].item() > 0.1


def test_the_upper_end_is_outside_and_a_low_of_zero_lets_time_zero_in():
    grid = time_grid(20)
    assert guidance_weight(grid, 3.0, (0.0, 0.5)).tolist() == [3.0] * 10 + [1.0] * 11
    assert guidance_weight(grid, 3.0, (0.0, 1.0)).tolist() == [3.0] * 20 + [1.0]
    assert guidance_weight(grid[:2], 3.0, (1e-6, 1.0)).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("interval", [(0.5, 0.1), (-0.1, 1.0), (0.0, 1.1), (0.1,), 0.3, ("a", 1), (float("nan"), 1.0)])
def test_bad_intervals(interval):
    with pytest.raises(ConfigError, match="guidance interval"):
        check_interval(interval)


def test_good_intervals_come_back_as_floats():
    assert check_interval([0, 1]) == (0.0, 1.0)
    assert check_interval((0.3, 0.3)) == (0.3, 0.3)
