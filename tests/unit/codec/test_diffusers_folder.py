"""Autoencoders of diffusers folders: names, scaling, what does not fit, and what is not an autoencoder."""

import json
import re

import pytest
import torch
from diffusers_folders import CONFIG, FLUX, write_folder
from safetensors.torch import load_file, save_file

from jitflow.codec.diffusers_folder import find_autoencoder_folder, load_diffusers_autoencoder
from jitflow.codec.latent import LatentCodec, load_image_codec
from jitflow.codec.vae import VAECodec
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.inspect.info import describe_path

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "vae")


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights), folder / WEIGHTS)


def describe(folder, **settings):
    (folder / "config.json").write_text(json.dumps({**CONFIG, **settings}))


def test_a_folder_is_found_by_itself_by_its_weights_and_by_an_option(folder, tmp_path):
    assert find_autoencoder_folder(folder) == find_autoencoder_folder(str(folder / WEIGHTS)) == folder
    assert find_autoencoder_folder(tmp_path / "none.pt") is None
    codec = load_image_codec(folder, img_size=16)
    assert codec.id == "vae_f2d4"
    assert codec.shape == (4, 8, 8)
    assert codec.scaling == (0.18215, 0.0)
    assert codec.checksum == load_image_codec(folder / WEIGHTS, img_size=16).checksum
    info = describe_path(folder)
    assert info.kind == "autoencoder of diffusers"
    assert "0.18215" in info.facts["scaling"]


def test_a_slim_export_keeps_the_scaling(tmp_path, images):
    codec = load_image_codec(write_folder(tmp_path / "vae", **FLUX), img_size=16)
    codec.export(tmp_path / "slim.safetensors")
    slim = load_image_codec(tmp_path / "slim.safetensors", img_size=16)
    assert slim.scaling == codec.scaling == (0.3611, 0.1159)
    assert slim.checksum == codec.checksum
    assert torch.equal(slim.encode_distribution(images).mean, codec.encode_distribution(images).mean)


def test_the_scaling_is_part_of_the_checksum(folder):
    before = load_image_codec(folder, img_size=16)
    describe(folder, scaling_factor=0.13025)
    after = load_image_codec(folder, img_size=16)
    assert before.checksum != after.checksum
    latents = LatentCodec(before.shape, expected_id=before.id, expected_checksum=before.checksum)
    with pytest.raises(ConfigError, match="checksum"):
        latents.attach(after)


def test_names_of_old_files_and_half_precision(folder, images):
    expected = load_image_codec(folder, img_size=16).encode_distribution(images).mean
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        for new, name_before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{name_before}.")
        return name

    rewrite(folder, lambda weights: {rename(name): value for name, value in weights.items()})
    assert any("proj_attn" in name for name in load_file(folder / WEIGHTS))
    assert torch.equal(load_image_codec(folder, img_size=16).encode_distribution(images).mean, expected)
    rewrite(folder, lambda weights: {name: value.half() for name, value in weights.items()})
    vae = load_diffusers_autoencoder(folder)
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert not vae.training


def test_what_is_missing_or_too_much_is_named_as_the_file_names_it(folder):
    rewrite(
        folder, lambda weights: {n: v for n, v in weights.items() if n != "decoder.up_blocks.0.resnets.1.conv1.bias"}
    )
    with pytest.raises(CheckpointError, match=r"missing: .*up_blocks\.0.*conv1\.bias$"):
        load_diffusers_autoencoder(folder)
    write_folder(folder)
    rewrite(folder, lambda weights: {**weights, "encoder.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"not expected: encoder\.extra$"):
        load_diffusers_autoencoder(folder)
    # Convolutions that the description leaves out are not dropped in silence.
    write_folder(folder)
    describe(folder, use_quant_conv=False)
    with pytest.raises(CheckpointError, match=r"not expected: quant_conv\.bias"):
        load_diffusers_autoencoder(folder)
    describe(folder, block_out_channels=[32, 32])
    with pytest.raises(CheckpointError, match=r"not expected: .*conv_shortcut"):
        load_diffusers_autoencoder(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "AutoencoderKLFlux2"}, "AutoencoderKLFlux2"),
        ({"_class_name": "AutoencoderDC"}, "only AutoencoderKL"),
        ({"act_fn": "gelu"}, "act_fn must be silu"),
        ({"norm_num_groups": 16}, "norm_num_groups must be 32"),
        ({"latents_mean": [0.0] * 4}, "latents_mean"),
        ({"down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"]}, "down_block_types"),
        ({"block_out_channels": [32, 48]}, "multiples of its first"),
        ({"block_out_channels": [32]}, "one for each block"),
        ({"block_out_channels": 32}, "block_out_channels"),
        ({"out_channels": 1}, "out_channels differ"),
        ({"layers_per_block": 10**9}, "num_res_blocks"),
        ({"latent_channels": "4"}, "embed_dim"),
        ({"scaling_factor": None}, "scaling_factor"),
    ],
)
def test_a_description_of_something_else_is_refused(folder, settings, message):
    describe(folder, **settings)
    with pytest.raises(CheckpointError, match=message) as error:
        load_image_codec(folder)
    assert "config.json" in str(error.value)


def test_folders_that_hold_no_autoencoder(folder, tmp_path):
    with pytest.raises(MissingFileError, match=rf"whole pipeline.*{re.escape(str(folder))}"):
        load_image_codec(tmp_path)
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(MissingFileError, match=rf"without {re.escape(WEIGHTS)}"):
        load_image_codec(folder)
    (folder / WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=re.escape(WEIGHTS)):
        load_image_codec(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_image_codec(folder)


def test_a_codec_of_a_folder_is_one_like_any_other(folder, images):
    codec = load_image_codec(folder, img_size=16)
    assert isinstance(codec, VAECodec)
    latents = LatentCodec(codec.shape, [0.1] * 4, [0.5] * 4, images=codec)
    codec.sample = False
    z = codec.encode(images)
    assert torch.equal(latents.decode(latents.encode(z)), codec.decode(latents.denormalise(latents.encode(z))))
