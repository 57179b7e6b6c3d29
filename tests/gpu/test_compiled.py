"""Compiled networks against eager ones: a training step and samples, in float32 and under bf16 autocast."""

import pytest
import torch

from jitflow.core.seeding import use_seeds
from jitflow.training.precision import autocast

pytestmark = pytest.mark.gpu
# Relative, of a gradient's norm: rounding in another order, in TF32 on CUDA, and in bf16.
LARGEST = {"32": 5e-3, "bf16": 5e-2}


def gradients(module, device, precision):
    """Loss and gradients of one training step on fixed images, noise and times."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator).to(device)
    x1 = module.codec.encode(images)
    x0 = torch.randn(x1.shape, generator=generator).to(device)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], device=device)
    labels = torch.tensor([0, 3, 4, 5], device=device)
    module.train()
    with autocast(precision, device):
        output = module(torch.lerp(x0, x1, t.view(-1, 1, 1, 1)), t, labels)
    loss = (output.float() - x1).square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("parts", "precision"), [("blocks", "32"), ("blocks", "bf16"), ("network", "bf16")])
def test_a_compiled_step_equals_an_eager_one(make_module, device, parts, precision):
    loss, found = gradients(make_module(compile=parts), device, precision)
    expected_loss, expected = gradients(make_module(compile=False), device, precision)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=LARGEST[precision])
    assert found.keys() == expected.keys() and found
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= LARGEST[precision] * grad.norm() + 1e-6, name


def steps(module, device, precision, count=4):
    """Losses of a few training steps on fixed images."""
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    batch = images.to(device), torch.tensor([0, 3, 4, 0], device=device)
    module.train().log = lambda *args, **kwargs: None
    optimiser = module.configure_optimizers()
    losses = []
    for i in range(count):
        torch.manual_seed(i)
        with autocast(precision, device):
            loss = module.training_step(batch, i)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_training_step_is_compiled_by_itself_on_cuda_only(make_module, device, precision):
    auto, plain = make_module(learning_rate=1e-3), make_module(learning_rate=1e-3, compile=False)
    expected = steps(plain, device, precision)
    assert steps(auto, device, precision) == pytest.approx(expected, rel=LARGEST[precision])
    assert len(set(expected)) == len(expected)
    # The dictionary of compiled variants: none without CUDA, one with it.
    assert len(auto.compiled_loss.variants) == (device.type == "cuda")


def test_steps_in_a_cuda_graph_equal_those_without(make_module, device, monkeypatch):
    """The results of a replay are kept, although the next one writes to the same addresses."""
    plain, graphed = (make_module(learning_rate=1e-3, compile="loss") for _ in range(2))
    monkeypatch.setattr(graphed.compiled_loss, "can_graph", lambda x1: True)
    assert steps(graphed, device, "bf16", 6) == pytest.approx(steps(plain, device, "bf16", 6), rel=1e-3)


def test_a_model_compiled_as_one_draws_the_same(make_model):
    """Of two batch sizes, the second one smaller, and with other weights in the same graph."""
    compiled, plain = make_model(cfg_scale=2.0).compile(), make_model(cfg_scale=2.0, compile=False)
    for average in compiled.module.ema_params1, plain.module.ema_params1:
        for value in average.values():
            value.mul_(1.1)
    drawn = [
        [m.sample([3, 0, 4, 1, 0], ema=ema, batch_size=3, precision="32").pixels.int() for ema in (1, 0)]
        for m in (compiled, plain)
    ]
    for ours, theirs in zip(*drawn, strict=True):
        assert (ours - theirs).abs().max() <= 2
    assert not torch.equal(*drawn[0])


def test_a_method_of_the_user_is_called_in_compiled_models(make_model):
    """``generate`` is the documented method; seeds reach it through a context."""
    model = make_model()
    with use_seeds([7, 8]), torch.no_grad():
        x = model.module.generate(torch.tensor([1, 2], device=model.module.device), use_ema=False)
    again = model.sample([1, 2], [7, 8], ema=0, precision="32")
    assert (model.module.codec.decode(x).cpu().int() - again.pixels.int()).abs().max() <= 1
