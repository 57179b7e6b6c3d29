"""Loss terms on inner features against formulas of their own: dispersive loss, auxiliary class head."""

import math

import pytest
import torch

from jitflow.core.path import interpolate
from jitflow.errors import ConfigError
from jitflow.nets.jit import JiT
from jitflow.training.methods.dispersive import DispersiveLoss
from jitflow.training.terms import FlowState

# Blocks 0 and 1 of four do not know the class, nor do the tokens before block 2.
LATE = {"in_context_start": 2, "label_start": 2}


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


def test_dispersive_loss_pushes_two_samples_apart():
    z = torch.tensor([[[0.1, 0.0]], [[-0.1, 0.0]]], requires_grad=True)
    term = DispersiveLoss(block=1)
    blank = torch.zeros(2, 1, 1, 1)
    term(FlowState(None, *[blank] * 2, torch.zeros(2), *[blank] * 3, features={"block1": z})).mean().backward()
    assert z.grad[0, 0, 0] < 0 < z.grad[1, 0, 0] and not z.grad[..., 1].any()


def test_class_head_is_the_cross_entropy_of_the_true_class(make_module):
    module = make_module(loss_terms={"class_head": {"weight": 2.0}}, net_settings=LATE)
    term = module.loss_terms.class_head
    assert term.block == 2
    x1, classes, t, noise = inputs(module)
    # The network is told no class; the head still has to tell it.
    dropped = torch.full_like(classes, module.num_classes)
    part = module.loss_parts(x1, dropped, t, noise, classes=classes)["class_head"]
    _, found = module.net(interpolate(noise, x1, t), t, dropped, features=("block2",))
    logits = term.head(term.norm(found["block2"].mean(1)))
    expected = [-(logits[i, y] - logits[i].exp().sum().log()).item() for i, y in enumerate(classes.tolist())]
    torch.testing.assert_close(part, 2 * torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert not module.loss_parts(x1, dropped, t, noise)["class_head"].any()


def test_class_head_learns_the_class_of_clean_images(make_module, make_trainer):
    from torch.utils.data import DataLoader, TensorDataset

    # Two classes of a colour each, and no label for the network: what the head knows it reads from the tokens.
    images = torch.cat([torch.full((32, 3, 8, 8), value, dtype=torch.uint8) for value in (40, 210)])
    loader = DataLoader(TensorDataset(images, torch.arange(64) // 32), batch_size=16, shuffle=True)
    module = make_module(
        num_classes=2, loss_terms={"class_head": {}}, net_settings=LATE, label_drop_prob=1.0, learning_rate=3e-3
    )
    make_trainer(max_epochs=6).fit(module, loader)
    x1 = module.codec.encode(images)
    parts = module.loss_parts(
        x1, torch.full((64,), 2), torch.full((64,), 0.9), torch.randn_like(x1), classes=torch.arange(64) // 32
    )
    assert parts["class_head"].mean() / 0.1 < 0.3 < math.log(2)


def test_blocks_before_the_label_do_not_know_it():
    torch.manual_seed(0)
    net = JiT(
        img_size=8,
        patch_size=4,
        hidden_size=32,
        depth=4,
        num_heads=2,
        num_classes=3,
        bottleneck_dim=8,
        in_context_len=2,
        **LATE,
    )
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.8])
    labels = [torch.full((2,), y) for y in (0, 1)]
    (a, one), (b, other) = (net(x, t, y, features=net.feature_names) for y in labels)
    for name in ("block0", "block1", "block2", "before_class_tokens"):
        assert torch.equal(one[name], other[name])
    assert not torch.equal(one["block3"], other["block3"]) and not torch.equal(a, b)
    # Precomputed modulation, and recomputed blocks, follow the same rule.
    for y, expected in zip(labels, (a, b), strict=True):
        torch.testing.assert_close(net(x, t, y, modulation=net.modulation(t, y)), expected)
    net.gradient_checkpointing = True
    torch.testing.assert_close(net.train()(x, t, labels[0]), a)


def test_heads_that_would_be_told_the_class_are_refused(make_module):
    for settings, term in (({}, {}), (LATE, {"block": 3}), ({"in_context_start": 2, "label_start": 1}, {"block": 2})):
        with pytest.raises(ConfigError, match="label_start"):
            make_module(loss_terms={"class_head": term}, net_settings=settings)
    with pytest.raises(ConfigError, match="label_start"):
        make_module(net_settings={"in_context_start": 1, "label_start": 2})
    with pytest.raises(ConfigError, match="temperature"):
        DispersiveLoss(temperature=0.0)
