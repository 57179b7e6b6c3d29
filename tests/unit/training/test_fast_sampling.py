"""Sampling with modulations from a table gives the images of the plain loop, and steps aside for a user's methods."""

import pytest
import torch
from double_network import in_double
from torch import nn

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.ema import copy_parameters
from jitflow.core.guidance import guidance_weight
from jitflow.core.seeding import use_seeds
from jitflow.model import Model
from jitflow.nets.jit import JiT
from jitflow.training.modulation import ModulationTable, takes_modulation
from jitflow.training.sampling_call import running_call

LABELS = torch.tensor([3, 0, 3, 4, 1, 0])

# Of float32 samples whose networks compute in float64.
ROUNDING = 1e-5


@pytest.fixture
def make_double(make_module):
    """Build a module of which two ways to one image differ by no rounding of the network."""
    return lambda *args, **settings: in_double(make_module(*args, **settings))


class Plain(JiTLightningModule):
    """An overridden method, though it changes nothing."""

    def _forward_sample(self, z, t, labels):
        return super()._forward_sample(z, t, labels)


def draw(module, use_ema=False):
    with use_seeds(range(len(LABELS))):
        return module.generate(LABELS, use_ema=use_ema)


def watch(module):
    """Record of every network pass: whether the modulation was given, and how often times were embedded."""
    given, embedded = [], []
    module.net.register_forward_pre_hook(
        lambda net, args, kwargs: given.append(kwargs.get("modulation") is not None), with_kwargs=True
    )
    module.net.t_embedder.register_forward_hook(lambda net, args, out: embedded.append(len(out)))
    return given, embedded


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cfg_scale": 2.0},
        {"cfg_scale": 2.0, "cfg_interval": (0.1, 0.6)},
        {"cfg_scale": 2.0, "sampling_method": "midpoint"},
        {"cfg_scale": 2.0, "sampling_method": "multistep", "time_shift": 2.0},
        {"cfg_scale": 2.0, "sampling_method": "euler"},
        {"cfg_scale": 2.0, "net_settings": {"self_conditioning": True}},
    ],
)
def test_same_images_as_the_plain_loop(make_double, settings):
    fast, plain = make_double(**settings), make_double(Plain, **settings)
    given_fast, given_plain = watch(fast)[0], watch(plain)[0]
    images = draw(fast)
    assert images.std() > 0.1
    assert (images - draw(plain)).abs().max() < ROUNDING
    assert given_fast and all(given_fast)
    assert given_plain and not any(given_plain)


def test_same_images_with_churn(make_double):
    settings = {"cfg_scale": 2.0}
    fast, plain = make_double(**settings), make_double(Plain, **settings)
    fast.churn = plain.churn = 1.0
    assert (draw(fast) - draw(plain)).abs().max() < ROUNDING


def test_each_time_and_label_is_embedded_once(make_module):
    module = make_module(cfg_scale=2.0, num_sampling_steps=6)
    _, embedded = watch(module)
    draw(module)
    # Four labels and "no class", at six times.
    assert sum(embedded) == 5 * 6
    assert len(embedded) == 2
    module.cfg_scale = 1.0
    embedded.clear()
    draw(module)
    assert sum(embedded) == 4 * 6


def test_an_average_is_sampled_with_its_own_modulations(make_double):
    fast, plain = make_double(cfg_scale=2.0), make_double(Plain, cfg_scale=2.0)
    generator = torch.Generator().manual_seed(5)
    fast.ema_params1.update(copy_parameters(dict(fast.named_parameters())))
    for average in fast.ema_params1.values():
        average.add_(0.05 * torch.randn(average.shape, generator=generator))
    plain.ema_params1.update({name: average.clone() for name, average in fast.ema_params1.items()})
    images = draw(fast, use_ema=True)
    assert (images - draw(plain, use_ema=True)).abs().max() < ROUNDING
    assert (images - draw(fast)).abs().max() > 1e-2


def check_compiled(make_module):
    compiled, plain = (Model(make_module(cfg_scale=2.0)) for _ in range(2))
    other = copy_parameters(dict(plain.module.named_parameters()))
    for average in other.values():
        average.mul_(1.1)
    for model in (compiled, plain):
        model.module.ema_params1 = {name: average.clone() for name, average in other.items()}
    drawn = [
        [model.sample([3, 0, 3, 4, 1, 0], ema=ema, batch_size=size).pixels.int() for ema in (1, 0) for size in (6, 4)]
        for model in (compiled.compile(), plain)
    ]
    for ours, theirs in zip(*drawn, strict=True):
        # One level of 256: rounding may lie on its edge.
        assert (ours - theirs).abs().max() <= 1
    assert not torch.equal(drawn[0][0], drawn[0][2])


def test_a_compiled_network_draws_the_same_without_a_compiler(make_module, monkeypatch):
    compile_, modes = torch.compile, []

    def traced(function, **kwargs):
        modes.append(kwargs.pop("mode", None))
        return compile_(function, backend="eager", **kwargs)

    monkeypatch.setattr(torch, "compile", traced)
    check_compiled(make_module)
    assert modes == [None]


@pytest.mark.slow
def test_a_compiled_network_draws_the_same(make_module):
    check_compiled(make_module)


@pytest.mark.parametrize("method", ["forward", "_heun_step", "_euler_step"])
def test_an_overridden_method_is_called_and_ends_the_table(make_double, method):
    calls = []

    def overridden(self, *args):
        calls.append(method)
        return getattr(super(module_class, self), method)(*args)

    module_class = type("Users", (JiTLightningModule,), {method: overridden})
    module = make_double(module_class, cfg_scale=2.0)
    given, _ = watch(module)
    images = draw(module)
    assert calls
    assert not any(given)
    assert (images - draw(make_double(cfg_scale=2.0))).abs().max() < ROUNDING


def test_a_forward_set_on_the_instance_is_called(make_module):
    module = make_module()
    original, calls = module.forward, []

    def forward(x, t, y):
        calls.append(len(x))
        return original(x, t, y)

    module.forward = forward
    draw(module)
    assert len(calls) == 7


def test_networks_without_modulation(make_double):
    class Users(JiT):
        def forward(self, x, t, y):
            return super().forward(x, t, y)

    class Other(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.inner = net

        def forward(self, x, t, y):
            return self.inner(x, t, y)

    module, expected = make_double(cfg_scale=2.0), draw(make_double(cfg_scale=2.0))
    assert takes_modulation(module.net)
    module.net = Other(module.net)
    assert not takes_modulation(module.net)
    assert (draw(module) - expected).abs().max() < ROUNDING
    assert not takes_modulation(Users(8, 4, hidden_size=16, depth=1, num_heads=2, in_context_start=0))


def test_nothing_is_kept_after_sampling(make_module):
    module = make_module()
    draw(module)
    assert running_call(module) is None
    module.net.register_forward_hook(lambda net, args, out: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(module)
    assert running_call(module) is None


def test_rows_are_the_network_s_and_blocks_stay_within_their_bound(make_module):
    net = make_module().net
    sizes = []
    net.t_embedder.register_forward_hook(lambda net, args, out: sizes.append(len(out)))
    y, times = torch.tensor([4, 1, 4]), torch.linspace(0, 1, 9)
    with torch.no_grad():
        one = net.modulation(times[:1], y[:1]).nbytes
        sizes.clear()
        table = ModulationTable(net, y, times, block_bytes=2 * 3 * one + 1)
        for t in [*times, torch.tensor(0.33)]:
            torch.testing.assert_close(
                table.of_samples(table.at(t.expand(3)), y), net.modulation(t.expand(3), y), rtol=1e-5, atol=1e-6
            )
    # Two labels: three times fit, the first of them computed alone; a time off the grid is not kept.
    tables = [size for size in sizes if size != 3]
    assert tables == [2, 4] * 3 + [2]


def test_guidance_in_one_batch_equals_two_passes(make_double):
    module = make_double(cfg_scale=2.5, cfg_interval=(0.2, 0.8))
    z = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    for time in (0.1, 0.5, 0.9):
        t = torch.tensor(time)
        together = module._forward_sample(z, t, LABELS)
        module.cfg_scale = 1.0
        cond = module._forward_sample(z, t, LABELS)
        uncond = module._forward_sample(z, t, torch.full_like(LABELS, 5))
        module.cfg_scale = 2.5
        w = guidance_weight(t[None], 2.5, (0.2, 0.8)).item()
        assert w == (2.5 if time == 0.5 else 1.0)
        torch.testing.assert_close(together, uncond + w * (cond - uncond), rtol=1e-4, atol=ROUNDING)
