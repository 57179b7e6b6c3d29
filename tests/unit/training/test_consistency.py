"""Consistency training against its formula, written out."""

import copy

import pytest
import torch
from torch import nn

from jitflow.core.path import interpolate
from jitflow.errors import ConfigError
from jitflow.training.methods.consistency import Consistency

ONLY = {"velocity_weight": 0.0, "loss_terms": {"consistency": {"stages": 3, "weight": 0.5}}}


def inputs(module, num=6):
    g = torch.Generator().manual_seed(1)
    x1, noise = (torch.randn(num, *module.codec.shape, generator=g) for _ in range(2))
    return x1, torch.arange(num) % 5, torch.tensor([0.0, 0.2, 0.5, 0.8, 0.97, 0.999])[:num], noise


def by_hand(module, x1, y, t, noise, share, target=None):
    """The loss of each sample for a network that predicts data, and the target."""

    def jump(x, s):
        left = (1 - s)[:, None, None, None]
        return x + left * (module.net(x, s, y) - x) / left.clamp_min(module.t_eps)

    if target is None:
        r = t + share * (1 - t)
        target = jump(interpolate(noise, x1, r), r)
    error = (jump(interpolate(noise, x1, t), t) - target).square().mean((1, 2, 3))
    return ((error + 5.4e-4**2).sqrt() - 5.4e-4) / (share * (1 - t).clamp_min(module.t_eps)), target


def test_the_loss_is_its_formula_and_its_target_has_no_gradient(make_module):
    module = make_module(**ONLY)
    x1, y, t, noise = inputs(module)
    parts = module.loss_parts(x1, y, t, noise, draws=module.loss_terms.draw(x1, 0, progress=0.5))
    with torch.no_grad():
        target = by_hand(module, x1, y, t, noise, 0.25)[1]
    expected = by_hand(module, x1, y, t, noise, 0.25, target)[0]
    torch.testing.assert_close(parts["consistency"], 0.5 * expected, rtol=1e-4, atol=1e-6)
    assert not parts["velocity"].any()
    parameters = [p for p in module.net.parameters() if p.requires_grad]
    found, own, whole = (
        torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        for loss in (parts["consistency"], 0.5 * expected, 0.5 * by_hand(module, x1, y, t, noise, 0.25)[0])
    )
    flat = [torch.cat([g.flatten() for g in grads if g is not None]) for grads in (found, own, whole)]
    torch.testing.assert_close(flat[0], flat[1], rtol=1e-3, atol=1e-5)
    # A target with a gradient would give another one.
    assert (flat[0] - flat[2]).norm() > 0.1 * flat[0].norm()


def test_the_first_half_of_the_way_is_halved_in_each_stage():
    term = Consistency(stages=3)
    assert [term.share(done) for done in (0, 0.3, 0.34, 0.6, 0.67, 0.99, 1)] == [0.5, 0.5, 0.25, 0.25] + [0.125] * 3


@pytest.mark.parametrize("prediction", ["data", "velocity", "noise"])
def test_data_of_one_image_have_no_loss(make_module, prediction):
    """A network that knows the only image points to it from everywhere."""
    module = make_module(prediction=prediction, **ONLY)
    x1, y, t, noise = inputs(module, num=4)
    x1 = x1[:1].expand_as(x1)

    class Knows(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, x, t, y):
            t = t[:, None, None, None]
            x0 = (x - t * x1) / (1 - t)
            return self.one * {"data": x1, "velocity": x1 - x0, "noise": x0}[prediction]

    module.net = Knows()
    # A noise prediction is clamped at the noise.
    t = t.clamp_min(0.1)
    losses = module.loss_parts(x1, y, t, noise, draws=module.loss_terms.draw(x1, 0))["consistency"]
    assert losses.max() < 1e-3


def test_a_training_goes_through_its_stages_and_validates_at_the_last(make_module, make_trainer, loader):
    module = make_module(**ONLY)
    seen, draw = [], Consistency.draw
    (term,) = module.loss_terms
    term.draw = lambda x1, generator: (
        seen.append(draw(term, x1, generator)["share"][0].item()) or draw(term, x1, generator)
    )
    make_trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=1, num_sanity_val_steps=0).fit(
        module, loader, loader
    )
    assert seen == [0.5, 0.5, 0.25, 0.125, 0.25, 0.125, 0.125, 0.125]


def test_what_cannot_be_is_named(make_module, make_trainer, loader):
    for settings, message in (({"stages": 0}, "stages"), ({"stages": 2.5}, "stages"), ({"weight": -1.0}, "weight")):
        with pytest.raises(ConfigError, match=message):
            make_module(loss_terms={"consistency": settings})
    module = make_module(**ONLY)
    before = copy.deepcopy(module.net.state_dict())
    with pytest.raises(ConfigError, match="max_epochs"):
        make_trainer(max_epochs=-1).fit(module, loader)
    assert all(torch.equal(value, module.net.state_dict()[name]) for name, value in before.items())


@pytest.mark.slow
def test_a_step_is_one_graph_for_the_compiler(make_module):
    module = make_module(**ONLY).train()
    x1, y, t, noise = inputs(module)
    draws = module.loss_terms.draw(x1, 0)
    compiled = torch.compile(module.loss_parts, backend="aot_eager", fullgraph=True, dynamic=False)
    found, expected = (step(x1, y, t, noise, draws=draws)["consistency"] for step in (compiled, module.loss_parts))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    torch._dynamo.reset()
