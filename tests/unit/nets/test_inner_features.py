"""Inner features of a network: what they are, and that nothing changes for those who ask for none."""

import pytest
import torch

from jitflow.errors import ConfigError
from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT
from jitflow.training.terms import LossModule

SIZES = {"patch_size": 4, "hidden_size": 32, "depth": 3, "num_heads": 2, "num_classes": 4}
CLASS_TOKENS = 2


def shaken(net):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def jit(**overrides):
    torch.manual_seed(0)
    sizes = {**SIZES, "img_size": 8, "bottleneck_dim": 8, "in_context_len": CLASS_TOKENS, "in_context_start": 1}
    return shaken(JiT(**{**sizes, **overrides}))


def dit(**overrides):
    torch.manual_seed(0)
    return shaken(LightningDiT(input_size=8, in_channels=3, use_rope=True, use_rmsnorm=True, **{**SIZES, **overrides}))


def inputs():
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 8, 8, generator=g), torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0, 4, 2])


@pytest.mark.parametrize("make", [jit, dit])
@pytest.mark.parametrize("parts", [False, "network"])
def test_every_feature_is_what_the_blocks_pass_on_and_the_output_stays(make, parts, monkeypatch):
    # The compiler itself runs in tests/gpu and in the slow test below.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **settings: None)
    net = make().train()
    net.compile_parts(parts)
    passed = []
    for block in net.blocks:
        block.register_forward_hook(lambda block, given, stream: passed.append(stream.added()))
    plain = net(*inputs())
    tokens = list(passed)
    output, found = net(*inputs(), features=net.feature_names)
    assert torch.equal(output, plain)
    assert set(found) == set(net.feature_names)
    for k, after in enumerate(tokens, 1):
        prefix = after.shape[1] - 4
        assert torch.equal(found[f"block{k}"], after[:, prefix:])
        if prefix:
            assert torch.equal(found[f"class_tokens{k}"], after[:, :prefix])
    assert found["condition"].shape == (3, 32) and found["block0"].shape == (3, 4, 32)


def test_the_features_before_the_class_tokens_are_those_of_the_block_there():
    _, found = jit()(*inputs(), features=("before_class_tokens", "block1", "class_tokens2"))
    assert torch.equal(found["before_class_tokens"], found["block1"])
    assert found["class_tokens2"].shape == (3, CLASS_TOKENS, 32)
    assert "class_tokens1" not in jit().feature_names and "class_tokens3" not in jit().feature_names
    assert not [name for name in dit().feature_names if "class_tokens" in name]


@pytest.mark.parametrize("make", [jit, dit])
def test_gradients_through_features_are_the_same_with_recomputed_blocks(make):
    option = "gradient_checkpointing" if make is jit else "use_checkpoint"
    gradients = []
    for recomputes in (False, True):
        net = make(**{option: recomputes}).train()
        output, found = net(*inputs(), features=("block2",))
        (output.square().mean() + found["block2"].square().mean()).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_with_given_modulation_the_features_are_the_same():
    net = jit().eval()
    x, t, y = inputs()
    output, found = net(x, t, y, features=net.feature_names)
    again, same = net(x, t, y, modulation=net.modulation(t, y), features=net.feature_names)
    assert torch.equal(output, again) and all(torch.equal(value, same[name]) for name, value in found.items())


def test_an_unknown_feature_is_named():
    with pytest.raises(ConfigError, match="block9"):
        jit()(*inputs(), features=("block9",))


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["blocks", "network"])
def test_a_compiled_network_gives_the_same_features(parts, monkeypatch):
    capture = torch.nn.Module.compile
    # Captured as graphs and not built, which takes minutes.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **_: capture(self, backend="aot_eager", fullgraph=True)
    )
    net, compiled = jit(), jit()
    compiled.compile_parts(parts)
    for features in ((), ("block1", "class_tokens2", "condition")):
        expected, got = (n(*inputs(), **({"features": features} if features else {})) for n in (net, compiled))
        if not features:
            expected, got = (expected, {}), (got, {})
        torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
        for name in features:
            torch.testing.assert_close(got[1][name], expected[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_first_blocks_without_the_class_have_the_same_tokens_for_every_class(checkpointing):
    x, t, y = inputs()
    net = jit(in_context_start=2, class_start=2, gradient_checkpointing=checkpointing).train()
    one, other = (net(x, t, labels, features=("block2", "block3")) for labels in (y, (y + 1) % 4))
    assert torch.equal(one[1]["block2"], other[1]["block2"])
    assert not torch.allclose(one[1]["block3"], other[1]["block3"]) and not torch.allclose(one[0], other[0])
    # Not later: the first block that is told the class knows it, before any class tokens.
    early = jit(in_context_start=2, class_start=1)
    one, other = (early(x, t, labels, features=("block1", "block2"))[1] for labels in (y, (y + 1) % 4))
    assert torch.equal(one["block1"], other["block1"]) and not torch.allclose(one["block2"], other["block2"])
    told = jit(in_context_start=2)
    assert not torch.allclose(*(told(x, t, labels, features=("block2",))[1]["block2"] for labels in (y, (y + 1) % 4)))
    # The block's modulation is that of the time alone.
    block, seen = net.blocks[0], []
    hook = block.register_forward_hook(lambda block, given, stream: seen.append(given[1]))
    net(x, t, y)
    hook.remove()
    assert torch.equal(seen[0], net.t_embedder(t))


def test_the_class_must_enter_the_network():
    for wrong in ({"class_start": 2}, {"class_start": -1}, {"class_start": 4, "in_context_len": 0}):
        with pytest.raises(ConfigError, match="class_start"):
            jit(**wrong)
    with pytest.raises(ConfigError, match="class_start"):
        jit(class_start=1, num_classes=0, in_context_len=0)


@pytest.mark.slow
def test_a_compiled_training_step_with_terms_is_one_graph_with_the_same_losses(monkeypatch):
    """With parameters, inner features and random draws; the graph is captured and not built, which takes minutes."""
    capture = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: capture(function, backend="aot_eager", dynamic=False, fullgraph=True)
    )
    from jitflow.apps.images.module import JiTLightningModule

    class Drawn(LossModule):
        name = "drawn"
        features = ("block1",)

        def build(self, module):
            self.head = torch.nn.Linear(32, 1)

        def draw(self, x1, generator):
            return {"share": torch.rand(len(x1), 4, generator=generator)}

        def forward(self, state):
            tokens = self.head(state.features["block1"])[..., 0]
            return (tokens * state.draws["drawn"]["share"]).square().mean(1)

    losses = []
    for parts in (False, "loss"):
        torch.manual_seed(0)
        net = {"depth": 3, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 8, "in_context_start": 1}
        terms = {"internal_guidance": {"block": 2}, "dispersive": {}, "cosine": {}}
        module = JiTLightningModule("JiT-N/4", 8, 5, net_settings=net, loss_terms=terms, compile=parts)
        module.add_loss_term(Drawn())
        shaken(module)
        module.log = module.log_dict = lambda *args, **kwargs: None
        images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(1)
        step = module.training_step((images, torch.arange(4)), 0)
        step["loss"].backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        losses.append(({name: float(part) for name, part in step["parts"].items()}, gradients))
    plain, compiled = losses
    assert plain[0].keys() == {"velocity", "internal_guidance", "dispersive", "cosine", "drawn"}
    assert plain[0] == pytest.approx(compiled[0], rel=1e-4)
    for name, gradient in plain[1].items():
        torch.testing.assert_close(compiled[1][name], gradient, atol=1e-5, rtol=1e-3)
