"""What each option of the JiT network changes, and that it changes nothing else."""

import math

import pytest
import torch
from torch import nn

from jitflow.errors import ConfigError
from jitflow.layers.initial import initialise_
from jitflow.nets import jit
from jitflow.nets.jit import JiT

TINY = {
    "img_size": (16, 32),
    "patch_size": 4,
    "hidden_size": 32,
    "depth": 2,
    "num_heads": 2,
    "bottleneck_dim": 8,
    "in_context_len": 0,
    "num_classes": 0,
}


def fresh(**overrides):
    torch.manual_seed(0)
    return JiT(**{**TINY, **overrides})


def shake(net):
    """Move every trainable weight, so that nothing is zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def images(batch=3):
    return torch.randn(batch, 3, 16, 32, generator=torch.Generator().manual_seed(1))


def times(batch=3):
    return torch.linspace(0.1, 0.9, batch)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


# --------------------------------------------------------------------------------------------- classes


def test_without_classes_the_condition_is_time_alone():
    net = shake(fresh())
    assert not [name for name in net.state_dict() if name.startswith(("y_embedder", "in_context"))]
    x, t = images(), times()
    out = net(x, t)
    assert out.std() > 0.01
    assert torch.equal(net(x, t, None), out)
    assert torch.equal(net(x, t, torch.tensor([4, 0, 7])), out)
    assert ((net(x, t + 0.05) - out).abs().amax((1, 2, 3)) > 1e-4).all()
    # The same network with a class whose row is zero is the same function.
    classy = shake(fresh(num_classes=1))
    classy.load_state_dict({**net.state_dict(), "y_embedder.embedding_table.weight": torch.zeros(2, 32)})
    torch.testing.assert_close(classy(x, t, torch.zeros(3, dtype=torch.int64)), out)


def test_a_network_with_classes_asks_for_labels():
    with pytest.raises(ValueError, match="needs a label for each sample"):
        fresh(num_classes=3)(images(), times())


# ------------------------------------------------------------------------------------------- positions


def test_learned_positions_are_drawn_and_trained():
    net = fresh(positions="learned", hidden_size=64, num_heads=2)
    assert net.pos_embed.requires_grad
    assert net.pos_embed.shape == (1, 32, 64)
    assert net.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(net.pos_embed.mean().item()) < 0.002
    assert net.pos_embed.abs().max() > 0.05  # a normal that nobody cut
    assert list(net.state_dict()) == list(fresh(hidden_size=64).state_dict())
    shake(net)(images(), times()).square().sum().backward()
    assert net.pos_embed.grad.flatten(0, 1).any(-1).all()


@pytest.mark.parametrize("use_rope", [True, False])
def test_rotation_is_an_option_of_its_own(use_rope):
    """Without any positions a shuffle of the patches shuffles the result; rotation notices it."""
    net = shake(fresh(positions="learned", use_rope=use_rope))
    with torch.no_grad():
        net.pos_embed.zero_()
    x = images()
    turned = x.roll((4, 8), (2, 3))
    same = torch.allclose(net(turned, times()), net(x, times()).roll((4, 8), (2, 3)), atol=1e-5)
    assert same is not use_rope
    with torch.no_grad():
        net.pos_embed.normal_()
    assert not torch.allclose(net(turned, times()), net(x, times()).roll((4, 8), (2, 3)), atol=1e-3)


def test_class_tokens_without_rotation():
    net = fresh(positions="learned", use_rope=False, num_classes=2, in_context_len=2, in_context_start=1)
    ropes = []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda module, args: ropes.append(args[2]))
    assert net(images(), times(), torch.tensor([0, 1, 2])).shape == (3, 3, 16, 32)
    assert ropes == [None, None]


# ---------------------------------------------------------------------------------------- first weights


def truncated_normal_deviation(std, cut):
    """Standard deviation of a normal that is cut at plus and minus ``cut``."""
    a = cut / std
    density, inside = math.exp(-a * a / 2) / math.sqrt(2 * math.pi), math.erf(a / math.sqrt(2))
    return std * math.sqrt(1 - 2 * a * density / inside)


def test_truncated_normal_weights():
    sizes = {"num_classes": 4, "in_context_len": 2, "in_context_start": 0, "hidden_size": 64}
    net = fresh(init="truncated_normal", **sizes)
    zero = [layer.adaLN_modulation[1] for layer in (*net.blocks, net.final_layer)]
    drawn = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m not in zero]
    assert len(drawn) == 4 * 2 + 2 + 2 + 1
    assert net.final_layer.linear in drawn
    for layer in drawn:
        assert layer.weight.std().item() == pytest.approx(truncated_normal_deviation(0.02, 2), rel=0.1)
        # Neither the bounds of a uniform nor those of a normal cut early.
        assert layer.weight.abs().max() > 0.045
        assert layer.bias is None or not layer.bias.any()
    for layer in zero:
        assert not layer.weight.any()
        assert not layer.bias.any()
    for table in (net.y_embedder.embedding_table.weight, net.in_context_posemb):
        assert table.std().item() == pytest.approx(0.02, rel=0.2)


def test_a_narrow_network_may_start_wider():
    net = fresh(init="truncated_normal", init_std=0.08, hidden_size=64, self_conditioning=True)
    for layer in (net.blocks[0].attn.qkv, net.x_embedder.proj1, net.hint_embedder.proj):
        assert layer.weight.std().item() == pytest.approx(0.08, rel=0.1)
    assert net.final_layer.linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    with pytest.raises(ConfigError, match="init_std must be positive"):
        fresh(init_std=0.0)


def test_rotations_can_measure_distance_along_the_text():
    """Moved by as many places along the line, a pair keeps its attention even where it crosses a row's end."""
    net = fresh(use_rope=True, rope_axes="line", positions="learned")
    cos, sin = net.rope(torch.device("cpu"))
    angles = torch.atan2(sin, cos)
    num = angles.shape[0]
    assert num == net.grid[0] * net.grid[1] and net.grid[0] > 1
    steps = torch.exp(1j * (angles[1:] - angles[:-1]))
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert (steps[0] != 1).any()
    torch.manual_seed(0)
    plain = fresh(use_rope=True, positions="learned")
    assert not torch.equal(plain.rope(torch.device("cpu")), net.rope(torch.device("cpu")))
    with pytest.raises(ConfigError, match="rope_axes"):
        fresh(rope_axes="lines")


def test_truncation_is_at_two():
    linear = nn.Linear(1000, 1000)
    torch.nn.init.ones_(linear.bias)
    initialise_(linear, "truncated_normal", normal=[])
    assert linear.weight.abs().max() < 2
    assert not linear.bias.any()


def test_one_seed_one_network():
    assert same_tensors(fresh().state_dict(), fresh().state_dict())
    # The option draws after everything else.
    hinted = fresh(self_conditioning=True).state_dict()
    del hinted["hint_embedder.proj.weight"]
    assert same_tensors(hinted, fresh().state_dict())
    assert not same_tensors(fresh(init="truncated_normal").state_dict(), fresh().state_dict())


# ----------------------------------------------------------------------------------- self-conditioning


def test_an_untrained_hint_changes_nothing_and_can_be_learned():
    net = fresh(self_conditioning=True)
    assert net.self_conditioning
    assert list(net.state_dict())[-1] == "hint_embedder.proj.weight"
    assert net.hint_embedder.proj.bias is None
    weight = net.hint_embedder.proj.weight
    assert not weight.any()
    shake(net)
    with torch.no_grad():
        weight.zero_()
    x, t = images(), times()
    plain = net(x, t)
    out = net(x, t, None, torch.ones_like(x))
    assert torch.equal(out, plain)
    out.square().sum().backward()
    assert weight.grad.any()


def test_a_trained_hint_is_seen_where_it_is():
    net = shake(fresh(self_conditioning=True))
    x, t = images(1), times(1)
    plain = net(x, t)
    assert torch.equal(net(x, t, hint=torch.zeros_like(x)), plain)
    with torch.no_grad():
        for block in net.blocks:  # gates closed: tokens do not see each other
            nn.init.zeros_(block.adaLN_modulation[1].weight)
            nn.init.zeros_(block.adaLN_modulation[1].bias)
    plain, hint = net(x, t), torch.zeros_like(x)
    hint[0, :, 8:12, 20:24] = 1
    difference = (net(x, t, hint=hint) - plain)[0].abs().amax(0)
    inside = difference[8:12, 20:24].clone()
    difference[8:12, 20:24] = 0
    assert (inside > 1e-6).all()
    assert not difference.any()


def test_every_step_reaches_every_weight():
    net = shake(fresh(self_conditioning=True, positions="learned"))
    net(images(), times()).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_hint_in_another_precision():
    net = shake(fresh(self_conditioning=True)).bfloat16()
    out = net(images().bfloat16(), times(), hint=torch.ones(3, 3, 16, 32))
    assert out.dtype == torch.bfloat16


def test_hints_that_do_not_fit():
    x, t = images(), times()
    with pytest.raises(ValueError, match=r"\(self_conditioning\).*\(3, 3, 16, 32\)"):
        fresh()(x, t, hint=x)
    assert not fresh().self_conditioning
    for hint in (x[:1], x[:, :2], x.transpose(2, 3)):
        with pytest.raises(ValueError, match=r"a hint of shape \(3, 3, 16, 32\); got"):
            fresh(self_conditioning=True)(x, t, hint=hint)


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_classes": -1}, "num_classes must not be negative; got -1"),
        ({"in_context_len": 4}, "in_context_len 4 .*num_classes is 0"),
        ({"positions": "learnt"}, "positions 'learnt'; did you mean learned"),
        ({"use_rope": False}, "use_rope=False .*positions='learned'"),
        ({"init": "truncated"}, "'truncated'; .*truncated_normal"),
    ],
)
def test_options_that_do_not_fit(overrides, message):
    with pytest.raises(ConfigError, match=message):
        fresh(**overrides)


def test_the_order_of_draws_is_part_of_what_a_seed_means(monkeypatch):
    """Linear layers in the network's order, then patch matrices, then tables; none but these."""
    for settings in ({}, {"num_classes": 3, "in_context_len": 2, "in_context_start": 0, "positions": "learned"}):
        # Torch's layers have drawn already when the network draws its own start.
        monkeypatch.setattr(jit, "initialise_", lambda *a, **k: (torch.manual_seed(5), initialise_(*a, **k)))
        net = JiT(**{**TINY, **settings})
        found = net.state_dict()
        torch.manual_seed(5)
        expected = {}
        for kind in (nn.Linear, nn.Conv2d):
            for name, module in net.named_modules():
                if isinstance(module, kind):
                    fan_out, fan_in = module.weight.flatten(1).shape
                    bound = math.sqrt(6 / (fan_in + fan_out))
                    expected[f"{name}.weight"] = torch.empty(fan_out, fan_in).uniform_(-bound, bound)
        tables = ["t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"]
        if settings:
            tables = ["y_embedder.embedding_table.weight", *tables, "in_context_posemb", "pos_embed"]
        for name in tables:
            expected[name] = torch.empty(found[name].shape).normal_(std=0.02)
        for name, value in expected.items():
            if "adaLN" not in name and name != "final_layer.linear.weight":
                torch.testing.assert_close(found[name].flatten(), value.flatten(), msg=name)
