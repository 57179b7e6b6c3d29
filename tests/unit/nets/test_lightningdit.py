"""LightningDiT: what each flag does, checkpoints of every form, and options that must not change the result."""

import copy

import pytest
import torch

from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT, detect_lightningdit, load_lightningdit_weights
from jitflow.nets.weights import load_strictly, shorten, summarise

TINY = {
    "input_size": (4, 8),
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
}
RELEASED = {"use_swiglu": True, "use_rope": True, "use_rmsnorm": True}


def build(**overrides):
    """A tiny network whose every trainable weight is shaken, so that nothing is zero."""
    torch.manual_seed(0)
    net = LightningDiT(**{**TINY, **RELEASED, **overrides})
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return net


def inputs(net, batch=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, net.in_channels, *net.input_size, generator=generator)
    return x, torch.linspace(0.1, 0.9, batch), torch.arange(batch)


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def block_shapes(net):
    """Shapes of the first block, and of what is no block."""
    return {name: shape for name, shape in shapes(net).items() if not name.startswith(("blocks.1.", "blocks.2."))}


def changed(**flags):
    """Names that a flag removes, adds or reshapes, against the released flags."""
    before, after = block_shapes(build()), block_shapes(build(**flags))
    removed = before.keys() - after.keys()
    return removed, {name: shape for name, shape in after.items() if before.get(name) != shape}


@pytest.mark.parametrize(
    ("flags", "removed", "added"),
    [
        ({"use_checkpoint": True}, set(), {}),
        (
            {"use_rope": False},
            {"feat_rope.freqs_cos", "feat_rope.freqs_sin"},
            {},
        ),
        (
            {"use_rmsnorm": False},
            {"blocks.0.norm1.weight", "blocks.0.norm2.weight", "final_layer.norm_final.weight"},
            {},
        ),
        (
            {"use_swiglu": False},
            {f"blocks.0.mlp.{layer}.{kind}" for layer in ("w12", "w3") for kind in ("weight", "bias")},
            {
                "blocks.0.mlp.fc1.weight": (128, 32),
                "blocks.0.mlp.fc1.bias": (128,),
                "blocks.0.mlp.fc2.weight": (32, 128),
                "blocks.0.mlp.fc2.bias": (32,),
            },
        ),
        (
            {"use_qknorm": True},
            set(),
            {"blocks.0.attn.q_norm.weight": (16,), "blocks.0.attn.k_norm.weight": (16,)},
        ),
        (
            {"use_qknorm": True, "use_rmsnorm": False},
            {"blocks.0.norm1.weight", "blocks.0.norm2.weight", "final_layer.norm_final.weight"},
            {f"blocks.0.attn.{n}_norm.{kind}": (16,) for n in "qk" for kind in ("weight", "bias")},
        ),
        (
            {"wo_shift": True},
            set(),
            {"blocks.0.adaLN_modulation.1.weight": (128, 32), "blocks.0.adaLN_modulation.1.bias": (128,)},
        ),
        (
            {"learn_sigma": True},
            set(),
            {"final_layer.linear.weight": (32, 32), "final_layer.linear.bias": (32,)},
        ),
        ({"class_dropout_prob": 0.0}, set(), {"y_embedder.embedding_table.weight": (5, 32)}),
        ({"class_dropout_prob": 0.5}, set(), {}),
    ],
)
def test_each_flag_changes_the_weights_it_should(flags, removed, added):
    assert changed(**flags) == (removed, added)
    net = build(**flags)
    x, t, y = inputs(net)
    out = net(x, t, y)
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 0.01


def test_the_fixed_defaults_are_a_plain_dit():
    net = LightningDiT(**TINY)
    assert not {name for name in shapes(net) if "rope" in name or "norm" in name or "w12" in name}


def test_layer_norm_and_rms_norm_before_a_modulation():
    net = build(use_rmsnorm=False)
    tokens = torch.randn(2, 3, 32) + 5
    normed = net.blocks[0].norm1(tokens)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normed.var(-1, unbiased=False), torch.ones(2, 3), rtol=0, atol=1e-4)
    net = build(use_rmsnorm=True)
    torch.testing.assert_close(
        net.blocks[0].norm1(tokens), tokens / tokens.square().mean(-1, keepdim=True).sqrt() * net.blocks[0].norm1.weight
    )


def test_without_shift_equals_with_shifts_of_zero():
    plain, shifted = build(wo_shift=True), build()
    weights = plain.state_dict()
    for i in range(3):
        for kind in ("weight", "bias"):
            name = f"blocks.{i}.adaLN_modulation.1.{kind}"
            scale_msa, gate_msa, scale_mlp, gate_mlp = weights[name].chunk(4)
            zero = torch.zeros_like(scale_msa)
            weights[name] = torch.cat([zero, scale_msa, gate_msa, zero, scale_mlp, gate_mlp])
    shifted.load_state_dict(weights)
    torch.testing.assert_close(plain(*inputs(plain)), shifted(*inputs(plain)))


def test_the_second_half_of_learn_sigma_is_left_out():
    plain, wide = build(), build(learn_sigma=True)
    weights = plain.state_dict()
    for kind in ("weight", "bias"):
        name = f"final_layer.linear.{kind}"
        # Rows are (place in the patch, channel): each place gets four more channels.
        rows = weights[name].unflatten(0, (4, 4))
        weights[name] = torch.cat([rows, torch.randn_like(rows)], dim=1).flatten(0, 1)
    wide.load_state_dict(weights)
    torch.testing.assert_close(wide(*inputs(plain)), plain(*inputs(plain)))


def test_plain_feed_forward_is_the_formula():
    mlp = build(use_swiglu=False).blocks[0].mlp
    x = torch.randn(2, 3, 32)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    gelu = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(mlp(x), gelu @ mlp.fc2.weight.T + mlp.fc2.bias)


def test_normalised_queries_do_not_feel_their_length():
    net = build(use_qknorm=True)
    x, t, y = inputs(net)
    before = net(x, t, y)
    with torch.no_grad():
        for block in net.blocks:
            block.attn.qkv.weight[:64] *= 7  # queries and keys
            block.attn.qkv.bias[:64] *= 7
    torch.testing.assert_close(net(x, t, y), before, rtol=1e-4, atol=1e-4)


def test_rotary_positions_see_places_and_no_rope_does_not():
    """Without positions a shuffle of the tokens shuffles the result; rotary positions notice it."""
    order = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    for use_rope in (True, False):
        net = build(use_rope=use_rope, patch_size=1, input_size=(2, 4))
        with torch.no_grad():
            net.pos_embed.zero_()
        x, t, y = inputs(net)
        shuffled = x.flatten(2)[..., order].view_as(x)
        same = torch.allclose(net(shuffled, t, y).flatten(2), net(x, t, y).flatten(2)[..., order], atol=1e-5)
        assert same is not use_rope


def test_every_sample_is_on_its_own_and_depends_on_time_class_and_latents():
    net = build()
    x, t, y = inputs(net)
    out = net(x, t, y)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], out[i], rtol=0, atol=1e-5)
    for other in ((x + 0.1, t, y), (x, t + 0.05, y), (x, t, torch.full_like(y, 5))):
        assert ((net(*other) - out).abs().amax((1, 2, 3)) > 1e-4).all()


def test_labels_are_never_dropped_here():
    net = build(class_dropout_prob=0.99)
    assert torch.equal(net.train()(*inputs(net)), net.eval()(*inputs(net)))


def test_recomputed_blocks_give_the_same_gradients():
    gradients = []
    for use_checkpoint in (False, True):
        net = build(use_checkpoint=use_checkpoint).train()
        net(*inputs(net)).square().mean().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) == len(list(net.parameters())) - 1  # the fixed positions have none
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_fresh_network_answers_zero():
    torch.manual_seed(0)
    net = LightningDiT(**TINY, **RELEASED)
    out = net(*inputs(net))
    assert torch.equal(out, torch.zeros_like(out))
    for linear in (net.t_embedder.mlp[0], net.t_embedder.mlp[2], net.y_embedder.embedding_table):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.2)
    conv = net.x_embedder.proj
    bound = (6 / (32 + 16)) ** 0.5  # a matrix from C * P * P to D
    assert 0.9 * bound < conv.weight.abs().max() <= bound
    assert not conv.bias.any()
    bound = (6 / (32 + 96)) ** 0.5
    assert 0.9 * bound < net.blocks[0].attn.qkv.weight.abs().max() <= bound


def test_half_precision_and_the_stored_table():
    net = build()
    x, t, y = inputs(net)
    full = net(x, t, y)
    half = copy.deepcopy(net).bfloat16()
    out = half(x.bfloat16(), t, y)
    assert out.dtype == torch.bfloat16
    assert (out.float() - full).abs().mean() < 0.05 * full.abs().mean()
    assert half.feat_rope(torch.device("cpu")).dtype == torch.float32
    # Rounded tables load; the rotation stays exact.
    again = build()
    again.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    assert torch.equal(again.feat_rope(torch.device("cpu")), net.feat_rope(torch.device("cpu")))


def test_weights_with_other_rotary_positions_are_refused():
    net = build()
    weights = net.state_dict()
    weights["feat_rope.freqs_cos"] = weights["feat_rope.freqs_cos"].flip(0)
    with pytest.raises(CheckpointError, match=r"feat_rope\.freqs_cos .*rotary positions"):
        load_strictly(net, weights, source="file")


def test_a_network_built_without_memory_computes_after_loading():
    net = build()
    with torch.device("meta"):
        empty = LightningDiT(**TINY, **RELEASED)
    empty.to_empty(device="cpu")
    load_strictly(empty, net.state_dict(), source="file")
    assert torch.equal(empty(*inputs(net)), net(*inputs(net)))


def test_compiled_blocks_keep_their_names():
    net = build()
    names = list(net.state_dict())
    net.compile_parts()
    assert list(net.state_dict()) == names


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"input_size": 5}, "input_size 5x5 .*patch_size 2"),
        ({"hidden_size": 30}, "hidden_size 30 must be divisible by 4"),
        ({"num_heads": 3}, "num_heads 3"),
        ({"num_heads": 16}, "num_heads 16 times a multiple of 4"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_sizes_that_do_not_fit(overrides, message):
    with pytest.raises(ConfigError, match=message):
        LightningDiT(**{**TINY, **RELEASED, **overrides})


def test_heads_of_two_need_no_rope():
    assert LightningDiT(**{**TINY, "num_heads": 16})(*inputs(build())).shape == (3, 4, 4, 8)


@pytest.mark.parametrize("shape", [(1, 4, 8, 4), (1, 3, 4, 8), (4, 4, 8)])
def test_latents_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"latents of shape \(B, 4, 4, 8\); got"):
        build()(torch.zeros(shape), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


# ------------------------------------------------------------------------------------------- checkpoints


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["sections", "alone"])
def test_checkpoints_of_every_form(tmp_path, prefix, form):
    net, other = build(), build(depth=2)
    ema, model = ({f"{prefix}{k}": v for k, v in n.state_dict().items()} for n in (net, other))
    content = {"model": model, "ema": ema, "opt": {}, "config": {"lr": 1}} if form == "sections" else ema
    torch.save(content, tmp_path / "a.pt")
    weights = load_lightningdit_weights(tmp_path / "a.pt")
    again = LightningDiT(**detect_lightningdit(weights, input_size=(4, 8)))
    load_strictly(again, weights, source="a.pt")
    assert torch.equal(again(*inputs(net)), net(*inputs(net)))
    if form == "sections":
        assert (
            detect_lightningdit(load_lightningdit_weights(tmp_path / "a.pt", "model"), input_size=(4, 8))["depth"] == 2
        )


@pytest.mark.parametrize(
    "flags",
    [
        {"use_rope": False, "use_qknorm": True},
        {"use_swiglu": False, "mlp_ratio": 2.0},
        {"mlp_ratio": 3.0},
        {"wo_shift": True},
        {"learn_sigma": True},
        {"use_rmsnorm": False},
        {"patch_size": 1},
    ],
)
def test_settings_are_read_from_the_weights(flags):
    net = build(**flags)
    settings = detect_lightningdit(net.state_dict(), input_size=(4, 8))
    expected = {**TINY, **RELEASED, **flags}
    assert {name: settings[name] for name in expected} == expected


def test_what_shapes_do_not_show_is_asked_for():
    weights = build(use_rope=False).state_dict()
    with pytest.raises(CheckpointError, match="pass num_heads"):
        detect_lightningdit(weights)
    with pytest.raises(CheckpointError, match=r"8 tokens, .*pass input_size"):
        detect_lightningdit(weights, num_heads=2)
    assert detect_lightningdit(build(input_size=8).state_dict())["input_size"] == 8


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(MissingFileError):
        load_lightningdit_weights(tmp_path / "none.pt")
    torch.save({"model": build().state_dict(), "epoch": 3}, tmp_path / "raw.pt")
    with pytest.raises(CheckpointError, match=r"'ema'; found: model \(.*\d\), epoch"):
        load_lightningdit_weights(tmp_path / "raw.pt")
    jit = JiT(img_size=16, patch_size=4, hidden_size=32, depth=2, num_heads=2, in_context_len=0, num_classes=3)
    torch.save({"ema": jit.state_dict()}, tmp_path / "jit.pt")
    with pytest.raises(CheckpointError, match=r"jit\.pt holds no .*found: blocks \(\d+"):
        load_lightningdit_weights(tmp_path / "jit.pt")
    with pytest.raises(CheckpointError, match=r"of a LightningDiT .*found: blocks"):
        detect_lightningdit(jit.state_dict())


def test_weights_that_do_not_fit_are_named_and_not_loaded():
    net = build()
    before = copy.deepcopy(net.state_dict())
    weights = build(use_qknorm=True, num_classes=7).state_dict()
    del weights["blocks.1.attn.proj.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_strictly(net, weights, source="file.pt")
    message = str(caught.value)
    assert message.startswith("file.pt does not fit this LightningDiT; missing: blocks.1.attn.proj.bias; ")
    assert "not in the network: blocks.0.attn.q_norm.weight, " in message
    assert "and 2 more; of another shape: y_embedder.embedding_table.weight (8, 32) for (6, 32)" in message
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_words_for_lists():
    assert shorten(["a", "b"]) == "a, b"
    assert shorten(list("abcdef")) == "a, b, c, d and 2 more"
    values = {"blocks.0": torch.zeros(1), "head": torch.zeros(1), "blocks.1": torch.zeros(1), "opt": {}, "epoch": 1}
    assert summarise(values) == "blocks (2 tensors), head (1 tensor), opt (a section of 0), epoch"
    assert summarise(values, limit=1) == "blocks (2 tensors) and 3 more"
    assert summarise({}) == "nothing"
