"""Dispersive loss against its formula, pair by pair."""

import math

import pytest
import torch

from jitflow.core.path import interpolate
from jitflow.errors import ConfigError
from jitflow.training.methods.dispersive import DispersiveLoss
from jitflow.training.terms import FlowState


def inputs(module, num=5):
    g = torch.Generator().manual_seed(1)
    x1, noise = (torch.randn(num, *module.codec.shape, generator=g) for _ in range(2))
    return x1, torch.arange(num) % 5, torch.linspace(0.2, 0.9, num), noise


def test_dispersive_loss_is_the_log_of_the_mean_over_all_pairs(make_module):
    module = make_module(loss_terms={"dispersive": {"weight": 0.25, "block": 3, "temperature": 0.7}})
    x1, y, t, noise = inputs(module)
    part = module.loss_parts(x1, y, t, noise)["dispersive"]
    _, found = module.net(interpolate(noise, x1, t), t, y, features=("block3",))
    z = found["block3"].flatten(1).tolist()
    pairs = [math.exp(-sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p) / 0.7) for p in z for q in z]
    torch.testing.assert_close(part, torch.full((5,), 0.25 * math.log(sum(pairs) / len(pairs))), atol=1e-5, rtol=1e-5)
    # Equal samples have the largest loss, 0; a quarter of the depth is the default.
    same = module.loss_parts(
        x1[:1].expand(5, -1, -1, -1), y[:1].expand(5), t[:1].expand(5), noise[:1].expand(5, -1, -1, -1)
    )
    torch.testing.assert_close(same["dispersive"], torch.zeros(5), atol=1e-5, rtol=0)
    assert make_module(loss_terms={"dispersive": {}}).loss_terms.features == ("block1",)


def test_half_precision_of_the_network_leaves_the_distances_exact():
    # Far from 0 and close to each other: their products are about 100, their distances below 1e-4.
    z = 10 + 1e-2 * torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    term = DispersiveLoss(block=1)
    blank = torch.zeros(4, 1, 1, 1)
    state = FlowState(None, *[blank] * 2, torch.zeros(4), *[blank] * 3, features={"block1": z})
    with torch.autocast("cpu", torch.bfloat16):
        found = term(state)
    distances = (z[:, None] - z).square().mean((2, 3))
    torch.testing.assert_close(found, (-distances / 0.5).exp().mean().log().expand(4), atol=1e-4, rtol=0)


def test_dispersive_loss_pushes_two_samples_apart():
    z = torch.tensor([[[0.1, 0.0]], [[-0.1, 0.0]]], requires_grad=True)
    term = DispersiveLoss(block=1)
    blank = torch.zeros(2, 1, 1, 1)
    term(FlowState(None, *[blank] * 2, torch.zeros(2), *[blank] * 3, features={"block1": z})).mean().backward()
    assert z.grad[0, 0, 0] < 0 < z.grad[1, 0, 0] and not z.grad[..., 1].any()


def test_a_temperature_that_cannot_be_is_named():
    with pytest.raises(ConfigError, match="temperature"):
        DispersiveLoss(temperature=0.0)
