"""AutoencoderKL against data that the reference implementation wrote (float32, CPU).

The golden file is cut in two, tensor by tensor in the order of their names, to keep files small: nothing is left out.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from jitflow.codec.vae import VAECodec
from jitflow.nets.autoencoder_kl import AutoencoderKL
from jitflow.nets.weights import load_strictly

HERE = Path(__file__).parent
HALVES = [HERE / f"vavae_tiny_{i}of2.safetensors" for i in (1, 2)]
KEYS = json.loads((HERE / "vavae_f16d32_keys.json").read_text())


@pytest.fixture(scope="module")
def golden():
    return {**load_file(HALVES[0]), **load_file(HALVES[1])}


@pytest.fixture(scope="module")
def vae(golden):
    with safe_open(HALVES[0], "pt") as file:
        vae = AutoencoderKL(**json.loads(file.metadata()["config"]))
    weights = {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}
    load_strictly(vae, weights, source="the golden file")
    return vae.eval().requires_grad_(False)


def deviation(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def test_keys_shapes_and_order_of_f16d32():
    with torch.device("meta"):
        vae = AutoencoderKL()
    found = {key: list(value.shape) for key, value in vae.state_dict().items()}
    assert list(found.items()) == list(KEYS.items())
    assert len(found) == 342
    assert vae.factor == 16
    assert sum(p.numel() for p in vae.parameters()) / 1e6 == pytest.approx(69.84, abs=0.005)


def test_encode(vae, golden):
    mean, logvar = vae.encode(golden["in/x"])
    assert deviation(mean, golden["out/mean"]) <= 1e-5
    assert deviation(logvar, golden["out/logvar"]) <= 1e-5


def test_decode(vae, golden):
    assert deviation(vae.decode(golden["out/mean"]), golden["out/decoded_from_mean"]) <= 1e-5
    assert deviation(vae(golden["in/x"]), golden["out/decoded_from_mean"]) <= 1e-5


def test_codec_agrees_with_the_network(vae, golden):
    codec = VAECodec(vae, img_size=64, sample=False)
    pixels = ((golden["in/x"] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    z = codec.encode(pixels)
    assert torch.equal(z, vae.encode(pixels / 127.5 - 1).mean)
    expected = (127.5 * golden["out/decoded_from_mean"] + 128).clamp(0, 255)
    # Equal but for numbers next to a whole one, where the last bit decides.
    differing = codec.decode(golden["out/mean"]) != expected.to(torch.uint8)
    assert ((expected - expected.round()).abs()[differing] < 1e-3).all()
    assert differing.float().mean() < 1e-3


@pytest.mark.slow
def test_full_size_with_weights_from_a_formula():
    with torch.device("meta"):
        vae = AutoencoderKL()
    vae = vae.double().to_empty(device="cpu").requires_grad_(False)
    state = vae.state_dict()
    for j, name in enumerate(sorted(state)):
        wave = torch.sin(0.37 * torch.arange(state[name].numel(), dtype=torch.float64) + 1.3 * j)
        if state[name].dim() >= 2:
            wave = wave / state[name][0].numel() ** 0.5
        else:
            wave = 1 + 0.05 * wave if name.endswith("weight") else 0.02 * wave
        # The reference's weights were float32 before they became float64; the decoder amplifies the difference.
        state[name].copy_(wave.float().view(state[name].shape))
    x = torch.sin(0.011 * torch.arange(3 * 256 * 256, dtype=torch.float64)).view(1, 3, 256, 256)
    mean, logvar = vae.encode(x)
    moments = torch.cat([mean, logvar], dim=1)
    assert moments.sum().item() == pytest.approx(-21.980622, abs=1e-5)
    assert moments.abs().mean().item() == pytest.approx(0.0532451, abs=1e-7)
    assert moments[0, :3, 0, 0].tolist() == pytest.approx([0.097678, 0.017861, -0.075220], abs=1e-6)
    image = vae.decode(mean)
    assert image.sum().item() == pytest.approx(-3963.1860, abs=1e-3)
    assert image.abs().mean().item() == pytest.approx(0.0357510, abs=1e-7)
    assert image[0, :, 128, 128].tolist() == pytest.approx([0.004098, -0.029496, -0.032369], abs=1e-6)
