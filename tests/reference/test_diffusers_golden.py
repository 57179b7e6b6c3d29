"""Autoencoders of diffusers folders against outputs of diffusers 0.42.1 (float64, CPU).

The golden file holds settings, names and shapes of the parameters, and outputs; the weights follow from a formula, so
that the test writes the folders itself.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jitflow.codec.latent import load_image_codec

CASES = json.loads(Path(__file__).with_name("diffusers_vae.json").read_text())["cases"]


def weights_from_a_formula(shapes):
    weights = {}
    for j, (name, shape) in enumerate(sorted(shapes.items())):
        count = math.prod(shape)
        wave = torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + 1.3 * j)
        if len(shape) >= 2:
            wave = wave / (count // shape[0]) ** 0.5
        else:
            wave = 1 + 0.05 * wave if name.endswith("weight") else 0.02 * wave
        weights[name] = wave.float().view(shape)
    return weights


@pytest.mark.parametrize("kind", CASES)
def test_latents_and_images_are_those_of_diffusers(kind, tmp_path):
    case = CASES[kind]
    (tmp_path / "config.json").write_text(json.dumps(case["config"]))
    save_file(weights_from_a_formula(case["shapes"]), tmp_path / "diffusion_pytorch_model.safetensors")
    codec = load_image_codec(tmp_path, img_size=(16, 24))
    assert codec.scaling == (case["config"]["scaling_factor"], case["config"]["shift_factor"] or 0.0)
    pixels = (torch.arange(3 * 16 * 24) * 37 % 256).view(1, 3, 16, 24).to(torch.uint8)
    mean, logvar = codec.encode_distribution(pixels)
    image = codec.decode_float(mean)
    for ours, theirs in (
        (mean[0, :, :2, :2], case["mean"]),
        (torch.exp(logvar / 2)[0, :, 0, 0], case["std"]),
        (image[0, :, ::5, ::5], case["image"]),
    ):
        expected = torch.tensor(theirs).view(ours.shape)
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert mean.double().sum().item() == pytest.approx(case["mean_sum"], abs=1e-4)
    assert image.abs().mean().item() == pytest.approx(case["image_abs_mean"], rel=1e-4)
