"""Moving averages against their closed forms."""

import pytest
import torch

from jitflow.core.ema import copy_parameters, update_ema_, update_together_
from jitflow.errors import ConfigError


def test_average_of_a_constant_is_the_constant():
    params = {"a": torch.randn(3, 2), "b": torch.randn(5)}
    average = copy_parameters(params)
    for _ in range(10):
        update_ema_(average, params, 0.9)
    torch.testing.assert_close(average, params)


def test_approach_to_a_constant():
    average = {"a": torch.zeros(4)}
    for _ in range(20):
        update_ema_(average, {"a": torch.ones(4)}, 0.9)
    torch.testing.assert_close(average["a"], torch.full((4,), 1 - 0.9**20))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_lag_behind_a_ramp(decay):
    # With p_k = k and e_0 = 0 the lag g_k = k - e_k obeys g_k = d (1 + g_(k-1)): g_n = d (1 - d^n) / (1 - d).
    params, num_steps = {"a": torch.zeros(())}, 300
    average = copy_parameters(params)
    for k in range(1, num_steps + 1):
        params["a"].fill_(k)
        update_ema_(average, params, decay)
    lag = decay * (1 - decay**num_steps) / (1 - decay)
    assert average["a"].item() == pytest.approx(num_steps - lag, rel=1e-5)


def test_decay_zero_copies_and_one_keeps():
    average = {"a": torch.zeros(2)}
    update_ema_(average, {"a": torch.ones(2)}, 1.0)
    assert average["a"].tolist() == [0, 0]
    update_ema_(average, {"a": torch.ones(2)}, 0.0)
    assert average["a"].tolist() == [1, 1]


def test_by_name_not_by_position():
    average = {"a": torch.zeros(1), "b": torch.zeros(1)}
    update_ema_(average, {"b": torch.tensor([2.0]), "a": torch.tensor([1.0])}, 0.0)
    assert (average["a"].item(), average["b"].item()) == (1, 2)


def test_copy_is_apart_and_updates_are_in_place():
    params = {"a": torch.nn.Parameter(torch.zeros(3))}
    average = copy_parameters(params)
    tensor = average["a"]
    assert not tensor.requires_grad
    params["a"].data.fill_(1.0)
    assert not tensor.any()
    update_ema_(average, params, 0.5)
    assert average["a"] is tensor
    assert tensor.tolist() == [0.5] * 3


def test_bfloat16_parameters_and_a_high_decay_do_not_stall():
    params = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(2)}
    average = copy_parameters({name: torch.zeros_like(p) for name, p in params.items()})
    assert {a.dtype for a in average.values()} == {torch.float32}
    for _ in range(5000):
        update_ema_(average, params, 0.9999)
    # In bfloat16 the average would stop near 0.03.
    for name in params:
        assert average[name][0].item() == pytest.approx(1 - 0.9999**5000, rel=1e-3)


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c"), ("a", "x")])
def test_names_must_agree(names):
    params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    average = {name: torch.zeros(1) for name in names}
    with pytest.raises(ConfigError, match=sorted(set(names) ^ set(params))[0]):
        update_ema_(average, params, 0.9)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_decay_range(decay):
    with pytest.raises(ConfigError, match="decay"):
        update_ema_({}, {}, decay)


@pytest.mark.parametrize("cached", [1, 10, 15, 2**18])
def test_many_at_once_and_one_by_one_give_the_same_bits(cached, monkeypatch):
    monkeypatch.setattr("jitflow.core.ema.CACHED_VALUES", cached)
    generator = torch.Generator().manual_seed(1)
    ends = [torch.randn(shape, generator=generator) for shape in ((3, 5), (7,), (), (2, 2, 2))]
    start = [torch.randn(end.shape, generator=generator) for end in ends]
    together, looped = [a.clone() for a in start], [a.clone() for a in start]
    for _ in range(3):
        update_together_(together, ends, 0.9996)
        for average, end in zip(looped, ends, strict=True):
            average.mul_(0.9996).add_(end, alpha=1 - 0.9996)
    for ours, theirs in zip(together, looped, strict=True):
        assert torch.equal(ours, theirs)
