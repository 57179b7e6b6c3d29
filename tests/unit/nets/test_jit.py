"""The JiT network as a whole: shapes, precision, options that must not change the result."""

import copy
import functools

import pytest
import torch

from jitflow.errors import ConfigError
from jitflow.layers.rope import rope_table
from jitflow.layers.stream import Stream
from jitflow.nets.jit import JiT

TINY = {
    "img_size": (16, 32),
    "patch_size": 4,
    "hidden_size": 32,
    "depth": 4,
    "num_heads": 2,
    "bottleneck_dim": 8,
    "in_context_len": 3,
    "in_context_start": 1,
    "num_classes": 5,
}


def build(**overrides):
    """A tiny network whose every trainable weight is shaken, so that nothing is zero."""
    torch.manual_seed(0)
    net = JiT(**{**TINY, **overrides})
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return net


def inputs(net, batch=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, net.in_channels, *net.img_size, generator=generator)
    return x, torch.linspace(0.1, 0.9, batch), torch.arange(batch)


def grid_transpose(table, rows, cols):
    """Reorder the tokens (dimension 1) of a row-major grid as those of the transposed grid."""
    return table.unflatten(1, (rows, cols)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    "overrides", [{}, {"in_context_len": 0}, {"in_channels": 1}, {"img_size": 16}, {"in_context_start": 0}]
)
def test_shapes_and_options(overrides):
    net = build(**overrides)
    x, t, y = inputs(net)
    out = net(x, t, y)
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 0.01
    assert ("in_context_posemb" in net.state_dict()) == (net.in_context_len > 0)


def test_every_sample_is_on_its_own_and_depends_on_time_class_and_image():
    net = build()
    x, t, y = inputs(net)
    out = net(x, t, y)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], out[i], rtol=0, atol=1e-5)
    for changed in ((x + 0.1, t, y), (x, t + 0.05, y), (x, t, torch.full_like(y, 5))):
        assert ((net(*changed) - out).abs().amax((1, 2, 3)) > 1e-4).all()


def test_class_tokens_join_at_their_block_and_leave_before_the_last_layer():
    net, lengths = build(in_context_start=2), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: lengths.append(out.tokens.shape[1]))
    net.final_layer.register_forward_hook(lambda module, args, out: lengths.append(args[0].tokens.shape[1]))
    x, t, y = inputs(net)
    before = net(x, t, y)
    assert lengths == [32, 32, 35, 32, 32]
    with torch.no_grad():
        net.in_context_posemb.zero_()
    assert not torch.allclose(net(x, t, y), before, atol=1e-4)


@pytest.mark.parametrize("rope", [True, False])
def test_a_block_leaves_out_what_is_not_read(rope):
    net = build()
    block = net.blocks[-1]
    x, c, modulation = torch.randn(2, 35, 32), torch.randn(2, 32), torch.randn(2, 6 * 32)
    table = net.rope(x.device) if rope else None
    for of_block in (None, modulation):
        whole = block(Stream(x), c, table, of_block).added()
        torch.testing.assert_close(block(Stream(x), c, table, of_block, 3).added(), whole[:, 3:], rtol=0, atol=1e-5)


def test_patches_keep_their_place_in_a_rectangle():
    net = build(in_context_len=0)
    with torch.no_grad():
        for block in net.blocks:  # gates closed: tokens do not see each other
            block.adaLN_modulation[1].weight.zero_()
            block.adaLN_modulation[1].bias.zero_()
    x, t, y = inputs(net, 1)
    changed = x.clone()
    changed[0, :, 8:12, 20:24] += 1
    difference = (net(changed, t, y) - net(x, t, y))[0].abs().amax(0)
    inside = difference[8:12, 20:24].clone()
    difference[8:12, 20:24] = 0
    assert (inside > 1e-5).all()
    assert not difference.any()


@pytest.mark.parametrize("tables", ["all", "no rope", "no positions"])
def test_rows_and_columns_are_told_apart(tables):
    """A transposed image under transposed tables gives the transposed output; with the net's own it does not."""
    net = build()
    rows, cols = net.grid
    turned = build(img_size=(32, 16))
    state = net.state_dict()
    state["x_embedder.proj1.weight"] = state["x_embedder.proj1.weight"].transpose(2, 3)
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        # Rows of the output are laid out as (row, column, channel) of a patch.
        state[key] = state[key].unflatten(0, (4, 4, 3)).transpose(0, 1).flatten(0, 2)
    own = turned.pos_embed.detach().clone()
    state["pos_embed"] = own if tables == "no positions" else grid_transpose(net.pos_embed.detach(), rows, cols)
    turned.load_state_dict(state)
    table = grid_transpose(rope_table(net.grid, 16), rows, cols)
    with_prefix = torch.cat([rope_table(net.grid, 16, num_prefix=3)[:, :3], table], dim=1)
    if tables != "no rope":
        turned.rope = lambda device: with_prefix
    x, t, y = inputs(net)
    difference = (turned(x.transpose(2, 3), t, y).transpose(2, 3) - net(x, t, y)).abs().max()
    if tables == "all":
        assert difference < 1e-5
    else:
        assert difference > 1e-3


@pytest.mark.parametrize("size", [(16, 30), (15, 32), 2, (0, 16)])
def test_size_must_be_divisible_by_the_patch(size):
    with pytest.raises(ConfigError, match="not divisible by patch_size 4; "):
        JiT(**{**TINY, "img_size": size})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_heads": 3}, "hidden_size 32"),
        ({"num_heads": 16}, "multiple of 4"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_context_start": 4}, "in_context_start 4"),
        ({"in_context_start": -1}, "in_context_start -1"),
    ],
)
def test_sizes_that_do_not_fit(overrides, message):
    with pytest.raises(ConfigError, match=message):
        JiT(**{**TINY, **overrides})


def test_an_image_of_another_size_is_refused():
    net = build()
    x, t, y = inputs(net)
    with pytest.raises(ValueError, match=r"\(B, 3, 16, 32\); got \(3, 3, 32, 16\)"):
        net(x.transpose(2, 3), t, y)


def test_dropout_in_the_middle_half_only():
    net = JiT(**{**TINY, "depth": 11, "attn_dropout": 0.1, "proj_dropout": 0.2})
    rates = [(b.attn.attn_dropout, b.attn.proj_drop.p, b.mlp.dropout.p) for b in net.blocks]
    assert rates == [(0.0, 0.0, 0.0)] * 2 + [(0.1, 0.2, 0.2)] * 4 + [(0.0, 0.0, 0.0)] * 5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_nothing(dropout):
    results = []
    recomputed = []
    for on in (False, True):
        net = build(gradient_checkpointing=on, attn_dropout=dropout, proj_dropout=dropout)
        calls = []
        net.blocks[0].register_forward_pre_hook(lambda module, args, calls=calls: calls.append(1))
        torch.manual_seed(3)
        out = net(*inputs(net))
        out.square().sum().backward()
        recomputed.append(len(calls))
        results.append((out, {name: p.grad for name, p in net.named_parameters() if p.requires_grad}))
    assert recomputed == [1, 2]
    torch.testing.assert_close(results[0], results[1])
    assert all(grad is not None and grad.any() for grad in results[0][1].values())


def check_compiled(net, parts):
    eager = copy.deepcopy(net)
    net.compile_parts(parts)
    assert list(net.state_dict()) == list(eager.state_dict())
    out, expected = net(*inputs(net)), eager(*inputs(net))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), eager.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3, msg=name)


@pytest.fixture
def compilations(monkeypatch):
    """What ``torch.compile`` is asked for, and the graphs that come of it; they run without a compiler."""
    compile_, asked, graphs = torch.compile, [], []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    def traced(function, **kwargs):
        asked.append(kwargs)
        return compile_(function, backend=keep, **kwargs)

    monkeypatch.setattr(torch, "compile", traced)
    # Every test of this process compiles the same code, and the compiler gives up after some times.
    torch.compiler.reset()
    return asked, graphs


@pytest.mark.parametrize(("parts", "number"), [(False, 0), (True, 2), ("blocks", 2), ("network", 1)])
def test_what_is_compiled_equals_eager_without_a_compiler(parts, number, compilations):
    asked, graphs = compilations
    net = build(depth=2, in_context_start=1)
    check_compiled(net, parts)
    assert asked == [{"dynamic": False}] * number
    # Nothing that the first call leaves behind makes the second one compile again.
    assert len(graphs) == number
    net(*inputs(net))
    assert len(graphs) == number


def test_blocks_are_compiled_for_many_sizes_of_batches(compilations):
    net = build(depth=2, in_context_start=1)
    with torch.compiler.config.patch(recompile_limit=4):
        net.compile_parts()
        for batch in range(1, 4):
            net(*inputs(net, batch))
    assert len(compilations[1]) == 6


def test_unknown_parts_to_compile_are_named():
    with pytest.raises(ConfigError, match="network"):
        build(depth=2, in_context_start=1).compile_parts("networks")


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["blocks", "network"])
def test_what_is_compiled_equals_eager(parts):
    check_compiled(build(depth=2, in_context_start=1), parts)


def test_bfloat16():
    net = build()
    expected = net(*inputs(net)).detach()
    net.to(torch.bfloat16)
    x, t, y = inputs(net)
    out = net(x.bfloat16(), t, y)
    assert out.dtype == torch.bfloat16
    assert net.rope(x.device).dtype == torch.float32
    assert ((out.float() - expected).abs().max() / expected.abs().max()).item() < 0.05
    out.float().sum().backward()


def test_autocast():
    net = build()
    x, t, y = inputs(net)
    expected = net(x, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, t, y)
    assert ((out.float() - expected).abs().max() / expected.abs().max()).item() < 0.05
    assert not torch.equal(out.float(), expected)


def test_built_without_memory_then_filled():
    net = build()
    with torch.device("meta"):
        empty = JiT(**TINY)
    assert all(p.device.type == "meta" for p in empty.parameters())
    empty.to_empty(device="cpu")
    empty.load_state_dict(net.state_dict())
    assert torch.equal(empty(*inputs(net)), net(*inputs(net)))


def test_trainable_after_a_first_use_in_inference_mode():
    net = build()
    with torch.inference_mode():
        net(*inputs(net))
    net(*inputs(net)).sum().backward()


def test_copies_do_not_share_state():
    net = build()
    net(*inputs(net))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        functools.reduce(lambda _, p: p.zero_(), twin.parameters(), None)
    assert net.final_layer.linear.weight.any()
