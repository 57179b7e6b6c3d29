"""Internal guidance: a second final layer that reads an inner block, in training, sampling and files."""

import importlib

import pytest
import torch

import jitflow
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.text.module import TextLightningModule
from jitflow.callbacks.ema import EMACallback
from jitflow.checkpoint.convert import convert
from jitflow.core.loss import mse_per_sample
from jitflow.core.path import interpolate, velocity_from_data
from jitflow.core.seeding import use_seeds
from jitflow.errors import ConfigError
from jitflow.layers.patch import unpatchify
from jitflow.layers.stream import Stream
from jitflow.model import Model
from jitflow.training.methods.registry import TERMS

TERM = {"internal_guidance": {"block": 2, "weight": 0.7}}


def inner_data(module, x, t, y):
    """By hand: run the network's blocks up to the second, then the layer of the term."""
    _, found = module.net(x, t, y, features=("block2", "condition"))
    patches = module.loss_terms.internal_guidance.final_layer(Stream(found["block2"]), found["condition"])
    return unpatchify(patches, module.net.grid, 4)


def inner_velocity(module, x, t, y):
    return velocity_from_data(inner_data(module, x, t, y), x, t, t_eps=module.t_eps)


def inputs(num=3):
    g = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(num, 3, 8, 8, generator=g) for _ in range(2))
    return x, torch.arange(num), torch.linspace(0.2, 0.9, num), noise


def test_the_loss_is_that_of_the_same_target(make_module):
    module = make_module(loss_terms=TERM)
    x1, y, t, noise = inputs()
    parts = module.loss_parts(x1, y, t, noise)
    x_t = interpolate(noise, x1, t)
    expected = mse_per_sample(inner_velocity(module, x_t, t, y), velocity_from_data(x1, x_t, t, t_eps=module.t_eps))
    torch.testing.assert_close(parts["internal_guidance"], 0.7 * expected)
    torch.testing.assert_close(parts["velocity"], make_module(loss_terms=TERM).loss_parts(x1, y, t, noise)["velocity"])
    # A layer that is the network's own, reading the network's last block, would have the network's loss.
    assert module.loss_terms.internal_guidance.block == 2
    assert make_module(loss_terms={"internal_guidance": {}}).loss_terms.internal_guidance.block == 1


def test_the_loss_has_the_space_and_the_weights_of_the_main_loss(make_module):
    class LeftHalf(JiTLightningModule):
        def loss_weight(self, data):
            return torch.cat([torch.ones(1, 1, 8, 4), torch.zeros(1, 1, 8, 4)], dim=3)

    module = make_module(LeftHalf, loss_terms=TERM, loss_on="data")
    x1, y, t, noise = inputs()
    found = module.loss_parts(x1, y, t, noise)["internal_guidance"]
    error = inner_data(module, interpolate(noise, x1, t), t, y) - x1
    torch.testing.assert_close(found, 0.7 * error[..., :4].square().mean((1, 2, 3)))


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_the_velocity_is_guided_away_from_the_inner_one(make_module, cfg_scale):
    module = make_module(loss_terms=TERM).eval()
    x, y, _, _ = inputs()
    t = torch.full((3,), 0.5)
    with torch.no_grad():
        null = torch.full_like(y, module.num_classes)
        final, inner = (
            [module._forward_sample(x, t, labels), inner_velocity(module, x, t, labels)] for labels in (y, null)
        )
        with module.sampling(internal_guidance=1.7, cfg_scale=cfg_scale):
            v = module._forward_sample(x, t, y)
    cond, uncond = (v_f + 0.7 * (v_f - v_i) for v_f, v_i in (final, inner))
    torch.testing.assert_close(v, uncond + cfg_scale * (cond - uncond), atol=1e-4, rtol=1e-4)
    with module.sampling(internal_guidance=1.7, cfg_interval=(0.6, 1.0)), torch.no_grad():
        torch.testing.assert_close(module._forward_sample(x, t, y), final[0])


def test_a_whole_sampling_with_precomputed_modulation_is_the_same_as_without(make_module, monkeypatch):
    module = make_module(loss_terms=TERM).eval()
    drawn = []
    for precomputed in (True, False):
        if not precomputed:
            monkeypatch.setattr("jitflow.training.sampling.takes_modulation", lambda net: False)
        with use_seeds([0, 1]), module.sampling(internal_guidance=1.5, cfg_scale=1.5, num_sampling_steps=3):
            drawn.append(module.generate(torch.tensor([0, 3]), use_ema=False))
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=1e-4)
    with use_seeds([0, 1]), module.sampling(num_sampling_steps=3, cfg_scale=1.5):
        assert (module.generate(torch.tensor([0, 3]), use_ema=False) - drawn[0]).abs().max() > 1e-3


def test_files_for_sampling_keep_the_layer_and_a_release_does_not(make_module, make_trainer, loader, tmp_path):
    module = make_module(loss_terms=TERM)
    trainer = make_trainer(max_steps=2, callbacks=[EMACallback()])
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert [name for name in module.ema_params1 if name.startswith("loss_terms.internal_guidance.")]
    convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors", ema="all")
    drawn = [
        jitflow.load(tmp_path / name, device="cpu").sample([0, 1], steps=2, internal_guidance=1.5).pixels
        for name in ("a.ckpt", "b.safetensors")
    ]
    assert torch.equal(*drawn)
    record = Model(module).sample([0], steps=1, internal_guidance=1.5).settings
    assert record["internal_guidance"] == 1.5 and "sde" not in record
    convert(tmp_path / "a.ckpt", tmp_path / "c.pth")
    released = jitflow.load(tmp_path / "c.pth", device="cpu")
    assert not len(released.module.loss_terms)
    with pytest.raises(ConfigError, match="internal_guidance"):
        released.sample([0], steps=1, internal_guidance=1.5)


def test_what_cannot_have_an_inner_layer_is_named(make_module):
    for block in (0, 4):
        with pytest.raises(ConfigError, match="block"):
            make_module(loss_terms={"internal_guidance": {"block": block}})
    net = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}
    with pytest.raises(ConfigError, match="own way"):
        TextLightningModule("bytes", "JiT-N/4", 16, net_settings=net, loss_terms={"internal_guidance": {}})


def test_every_term_of_the_library_has_the_name_in_the_settings():
    places = {name: path.partition(":") for name, path in TERMS.items()}
    classes = {name: getattr(importlib.import_module(module), cls) for name, (module, _, cls) in places.items()}
    assert {name: cls.name for name, cls in classes.items()} == {name: name for name in TERMS}
