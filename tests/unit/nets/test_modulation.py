"""Modulation computed before: equal to the direct way, in every network that has it."""

import copy

import pytest
import torch

from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT

JIT = {
    "img_size": (8, 16),
    "patch_size": 4,
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 2,
    "bottleneck_dim": 8,
    "in_context_len": 2,
    "in_context_start": 1,
    "num_classes": 5,
}
DIT = {
    "input_size": (8, 16),
    "patch_size": 4,
    "in_channels": 3,
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
}
NETS = {
    "jit": (JiT, JIT),
    "jit without classes": (JiT, {**JIT, "num_classes": 0, "in_context_len": 0}),
    "jit whose first block knows no class": (JiT, {**JIT, "class_start": 1}),
    "jit that recomputes": (JiT, {**JIT, "gradient_checkpointing": True}),
    "dit": (LightningDiT, DIT),
    "dit without shift": (LightningDiT, {**DIT, "wo_shift": True, "use_rope": True, "use_rmsnorm": True}),
    "dit that recomputes": (LightningDiT, {**DIT, "use_checkpoint": True}),
}


@pytest.fixture(params=NETS)
def net(request):
    build, settings = NETS[request.param]
    torch.manual_seed(0)
    net = build(**settings)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return net


def inputs(batch=3):
    x = torch.randn(batch, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(0.1, 0.9, batch), torch.arange(batch)


def test_precomputed_is_direct_to_the_bit(net):
    x, t, y = inputs()
    out, modulation = net(x, t, y), net.modulation(t, y)
    values = (4 if getattr(net.blocks[0], "shift", True) is False else 6) * 3 * 32 + 2 * 32
    assert modulation.shape == (3, values)
    assert torch.equal(net(x, t, y, modulation=modulation), out)


def test_time_is_not_looked_at_again_and_the_modulation_is(net):
    x, t, y = inputs()
    modulation = net.modulation(t, y)
    assert torch.equal(net(x, torch.zeros(3), y, modulation=modulation), net(x, t, y))
    for part in range(3):  # each block, then the last layer
        changed = modulation.clone()
        width = (modulation.shape[1] - 64) // 3
        changed[:, part * width : (part + 1) * width] += 0.1
        assert not torch.allclose(net(x, t, y, modulation=changed), net(x, t, y), atol=1e-4)
    changed = modulation.clone()
    changed[:, -64:] += 0.1
    assert not torch.allclose(net(x, t, y, modulation=changed), net(x, t, y), atol=1e-4)


def test_one_table_serves_all_times_and_labels(net):
    """What a sampler does: one row for each pair of time and label, computed once, picked at each step."""
    x, _, y = inputs()
    y = torch.tensor([4, 1, 4])
    steps, labels = torch.tensor([0.0, 0.3, 0.9]), torch.tensor([1, 4])
    table = net.modulation(steps.repeat_interleave(2), labels.repeat(3)).view(3, 2, -1)
    row = torch.searchsorted(labels, y)
    for step, t in enumerate(steps):
        out = net(x, t.expand(3), y, modulation=table[step, row])
        torch.testing.assert_close(out, net(x, t.expand(3), y), rtol=0, atol=1e-6 * out.abs().max().item())


def test_one_row_for_all_samples(net):
    x, _, _ = inputs()
    t, y = torch.full((3,), 0.4), torch.full((3,), 2)
    shared = net.modulation(t[:1], y[:1])
    out = net(x, t, y)
    torch.testing.assert_close(net(x, t, y, modulation=shared), out, rtol=0, atol=1e-6 * out.abs().max().item())


def test_gradients_flow_through_it(net):
    x, t, y = inputs()
    twin = copy.deepcopy(net)
    net.train()(x, t, y).square().sum().backward()
    twin.train()(x, t, y, modulation=twin.modulation(t, y)).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, msg=name)


def test_in_half_precision(net):
    x, t, y = inputs()
    net.bfloat16()
    out = net(x.bfloat16(), t, y)
    assert torch.equal(net(x.bfloat16(), t, y, modulation=net.modulation(t, y)), out)


def test_under_autocast(net):
    x, t, y = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, t, y)
        assert torch.equal(net(x, t, y, modulation=net.modulation(t, y)), out)


def check_compiled(net):
    x, t, y = inputs()
    expected = net.eval()(x, t, y)
    net.compile_parts()
    with torch.no_grad():
        modulation = net.modulation(t, y)
        for out in (net(x, t, y), net(x, t, y, modulation=modulation), net(x, t, y, modulation=modulation[:1])):
            assert out.shape == expected.shape
        torch.testing.assert_close(net(x, t, y), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x, t, y, modulation=modulation), expected, rtol=1e-4, atol=1e-5)


def test_compiled_blocks_take_it_without_a_compiler(net, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: compile_(function, backend="eager", **kwargs))
    check_compiled(net)


@pytest.mark.slow
def test_compiled_blocks_take_it(net):
    check_compiled(net)


def test_of_another_network(net):
    x, t, y = inputs()
    with pytest.raises(ValueError, match=r"\d+ modulation values; got \(3, 7\)"):
        net(x, t, y, modulation=torch.zeros(3, 7))
    if net.num_classes:
        with pytest.raises(ValueError, match="needs a label"):
            net.modulation(t)
