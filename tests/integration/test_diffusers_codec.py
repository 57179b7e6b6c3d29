"""The three stages with the autoencoder of a diffusers folder in place of a VA-VAE."""

import pytest
import torch
from diffusers_folders import FLUX, write_folder
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from striped_data import SIDE, make_data, pixels_of

import jitflow
from jitflow.cli import main
from jitflow.codec.latent import load_image_codec
from jitflow.errors import ConfigError
from jitflow.inspect.info import describe_path
from jitflow.io.files import read_json

NET = '{"depth": 1, "hidden_size": 32, "num_heads": 2}'


def run(*words):
    assert main(["microdoppler", *map(str, words)]) == 0


def test_three_stages_take_the_folder_where_they_take_a_vavae(tmp_path):
    data, vae = make_data(tmp_path / "data"), write_folder(tmp_path / "vae", **FLUX)
    latents, trained, drawn = (tmp_path / name for name in ("latents", "run", "drawn"))
    run(
        *("extract", "--data_dir", data, "--output_path", latents, "--vavae_path", vae, "--img_size", SIDE),
        *("--device", "cpu"),
    )
    codec = load_image_codec(vae, img_size=SIDE)
    mean, logvar = codec.encode_distribution(pixels_of(data, "val"))
    held = load_file(latents / "val.safetensors")["latents"]
    # Draws around the scaled mean; unscaled they would be three times as far apart.
    assert ((held - mean).abs() <= 6 * torch.exp(logvar / 2)).all()
    with safe_open(latents / "val.safetensors", "pt") as file:
        assert file.metadata()["scaling"] == "[0.3611, 0.1159]"
        assert file.metadata()["codec_checksum"] == codec.checksum
    record = read_json(latents / "extraction.json")["codec"]
    assert record["id"] == "vae_f2d16" and record["scaling"] == {"factor": 0.3611, "shift": 0.1159}
    assert "0.3611" in describe_path(latents / "train.safetensors").facts["codec"]

    run(
        *("train", "--latent_dir", latents, "--output_dir", trained, "--batch_size", 8, "--max_epochs", 1),
        *("--model", "LightningDiT-N/4", "--model.net_settings", NET, "--trainer.accelerator", "cpu"),
    )
    sample = ["sample", "--dit_checkpoint", trained, "--num_samples_per_user", 1, "--num_steps", 2, "--device", "cpu"]
    run(*sample, "--output_dir", drawn, "--vavae_path", vae)
    pictures = sorted(drawn.glob("micro_doppler_user*.png"))
    assert pictures and all(Image.open(path).size == (SIDE, SIDE) for path in pictures)

    # Of the same shape, but of other weights: the scaling alone is a difference.
    other = write_folder(tmp_path / "other", **{**FLUX, "scaling_factor": 0.5})
    with pytest.raises(ConfigError, match="checksum"):
        jitflow.load(trained / "checkpoints" / "best.ckpt", device="cpu", vavae_path=other)
