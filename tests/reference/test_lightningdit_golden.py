"""LightningDiT against data that the reference implementation wrote (float32, CPU; lightningdit_tiny.safetensors)."""

import functools
import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from jitflow.codec.pixel import PixelCodec
from jitflow.core.guidance import guided_velocity
from jitflow.core.solver import integrate
from jitflow.core.times import time_grid
from jitflow.layers.embed import sincos_position_table
from jitflow.nets.lightningdit import LightningDiT, detect_lightningdit, load_lightningdit_weights
from jitflow.nets.registry import create_model
from jitflow.nets.weights import load_strictly
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule
from jitflow.training.terms import CosineTerm

HERE = Path(__file__).parent
KEYS = json.loads((HERE / "lightningdit_keys.json").read_text())
NET_ARGUMENTS = set(inspect.signature(LightningDiT).parameters)


@pytest.fixture(scope="module")
def golden():
    with safe_open(HERE / "lightningdit_tiny.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)


@pytest.fixture(scope="module")
def config():
    with safe_open(HERE / "lightningdit_tiny.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture(scope="module")
def weights(golden):
    return {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}


@pytest.fixture
def net(weights, config):
    net = LightningDiT(**{name: value for name, value in config.items() if name in NET_ARGUMENTS})
    load_strictly(net, weights, source="the golden file")
    return net.eval()


def deviation(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("name", KEYS)
def test_keys_shapes_order_and_counts(name):
    with torch.device("meta"):
        net = create_model(name)
    found = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert list(found.items()) == list(KEYS[name]["keys"].items())
    assert all(value.device.type == "meta" for value in net.state_dict().values())
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(KEYS[name]["parameters_million"], abs=1e-4)


def test_fixed_tables(net, golden, config):
    assert torch.equal(sincos_position_table(net.grid, config["hidden_size"]), golden["const/pos_embed_init"])
    fresh = LightningDiT(**{name: value for name, value in config.items() if name in NET_ARGUMENTS}).feat_rope
    for name in ("freqs_cos", "freqs_sin"):
        torch.testing.assert_close(getattr(fresh, name), golden[f"weights/feat_rope.{name}"], rtol=0, atol=1e-6)


def test_forward(net, golden):
    with torch.no_grad():
        out = net(golden["forward/x"], golden["forward/t"], golden["forward/y"])
    assert deviation(out, golden["forward/out"]) <= 2e-6


def test_loss_terms(net, golden, config):
    x1, t, y, x0 = golden["forward/x"], golden["forward/t"], golden["forward/y"], golden["loss/x0"]
    module = FlowModule(
        PixelCodec((8, 8), 4),
        net,
        num_classes=config["num_classes"],
        settings=FlowSettings(prediction="velocity"),
        loss_terms=[CosineTerm()],
    )
    with torch.no_grad():
        parts = module.loss_parts(x1, y, t, x0)
    assert deviation(parts["velocity"], golden["loss/mse_per_sample"]) <= 1e-5
    assert deviation(parts["cosine"], golden["loss/cos_per_sample"]) <= 1e-5


def test_time_points_are_ours_with_the_inverse_shift(golden, config):
    grid = time_grid(config["num_time_points"] - 1, shift=1 / config["timestep_shift"])
    torch.testing.assert_close(grid, golden["generate/timesteps"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mode", "channels"), [("first3", 3), ("all", None)])
def test_samples_with_guidance(net, golden, config, mode, channels):
    velocity = functools.partial(
        guided_velocity,
        net,
        label=golden["generate/y"],
        null_label=config["num_classes"],
        scale=config["cfg_scale"],
        interval=(config["cfg_interval_start"], 1.0),
        channels=channels,
    )
    with torch.no_grad():
        latents = integrate(velocity, golden["generate/noise"], golden["generate/timesteps"], solver="euler")
    assert deviation(latents, golden[f"generate/euler_cfg_{mode}"]) <= 1e-5
    # The two modes are far apart, so neither passes for the other.
    other = {"first3": "all", "all": "first3"}[mode]
    assert deviation(latents, golden[f"generate/euler_cfg_{other}"]) > 0.01


@pytest.mark.parametrize("which", ["ema", "model"])
def test_checkpoint_of_the_release(golden, weights, config, which):
    loaded = load_lightningdit_weights(HERE / "lightningdit_tiny_ckpt.pt", which)
    assert loaded.keys() == weights.keys()
    same = [torch.equal(loaded[name], weights[name]) for name in weights if name.startswith("blocks.")]
    assert all(same) if which == "ema" else not any(same)
    settings = detect_lightningdit(loaded)
    assert {name: settings[name] for name in settings.keys() & config.keys()} == {
        name: config[name] for name in settings.keys() & config.keys()
    }
    assert len(settings.keys() & config.keys()) == 12
    net = LightningDiT(**settings)
    load_strictly(net, loaded, source="ckpt")
    with torch.no_grad():
        out = net(golden["forward/x"], golden["forward/t"], golden["forward/y"])
    assert (deviation(out, golden["forward/out"]) <= 2e-6) == (which == "ema")


# Numbers of the reference at another size, with weights from a formula: sum, mean of absolutes, two corners.
FORMULA = {
    1: (80.209185, 0.354335, [-0.136100, 0.027728, 0.125840, 0.216086], [-0.023653, 0.039225, 0.103432, 0.044734]),
    2: (3.695141, 0.296954, [-0.124079, 0.478957, 0.031185, 0.396995], [0.550155, 0.398203, 0.568822, 0.426998]),
}


@pytest.mark.parametrize("patch_size", FORMULA)
def test_weights_from_a_formula(patch_size):
    net = LightningDiT(
        input_size=16,
        patch_size=patch_size,
        hidden_size=96,
        depth=2,
        num_heads=4,
        num_classes=5,
        use_swiglu=True,
        use_rope=True,
        use_rmsnorm=True,
    )
    state = net.state_dict()
    assert len(state) == 39
    for j, name in enumerate(sorted(state)):
        if name == "pos_embed" or name.startswith("feat_rope."):
            continue
        wave = torch.sin(0.37 * torch.arange(state[name].numel(), dtype=torch.float64) + 1.3 * j)
        if state[name].dim() >= 2:
            wave = wave / state[name][0].numel() ** 0.5
        else:
            wave = 1 + 0.05 * wave if name.endswith("weight") else 0.02 * wave
        state[name].copy_(wave.view(state[name].shape))
    x = torch.sin(0.11 * torch.arange(2 * 32 * 256, dtype=torch.float64)).float().view(2, 32, 16, 16)
    with torch.no_grad():
        out = net(x, torch.tensor([0.3, 0.8]), torch.tensor([0, 3]))
    total, magnitude, first, last = FORMULA[patch_size]
    assert out.sum().item() == pytest.approx(total, abs=5e-3)
    assert out.abs().mean().item() == pytest.approx(magnitude, abs=2e-6)
    torch.testing.assert_close(out[0, 0, 0, :4], torch.tensor(first), rtol=0, atol=5e-6)
    torch.testing.assert_close(out[1, 31, 15, 12:], torch.tensor(last), rtol=0, atol=5e-6)
