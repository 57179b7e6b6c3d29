"""The codec of a trained autoencoder: pixels, files of every kind, and what it must not do to its surroundings."""

import copy
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from jitflow.codec.vae import VAECodec, load_autoencoder, weights_checksum
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.nets.autoencoder_kl import AutoencoderKL
from jitflow.nets.lightningdit import LightningDiT
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule

TINY = {
    "embed_dim": 4,
    "ch": 32,
    "ch_mult": [1, 2],
    "resolution": 16,
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "in_channels": 3,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(**TINY).eval()


@pytest.fixture
def codec(vae):
    return VAECodec(copy.deepcopy(vae), img_size=16)


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Constant(AutoencoderKL):
    """An autoencoder that decodes everything to one number."""

    value = 0.0

    def decode(self, z):
        return torch.full((len(z), 3, 16, 16), self.value)


def foreign_tensors():
    """What a training's checkpoint holds besides the autoencoder, a network with an encoder of its own included."""
    return {
        "loss.logvar": torch.zeros(()),
        "loss.perceptual_loss.net.slice1.0.weight": torch.randn(4, 3, 3, 3),
        "loss.discriminator.main.0.weight": torch.randn(4, 3, 4, 4),
        "foundation_model.model.blocks.0.attn.qkv.weight": torch.randn(6, 2),
        "foundation_model.model.encoder.layer.weight": torch.randn(3),
        "linear_proj.weight": torch.randn(8, 4, 1, 1),
    }


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------ pixels


def test_shape_and_id(codec, vae):
    assert codec.shape == (4, 8, 8)
    assert codec.id == "vae_f2d4"
    assert VAECodec(vae, img_size=(16, 32)).shape == (4, 8, 16)
    with torch.device("meta"):
        full = AutoencoderKL()
    assert VAECodec(full).shape == (32, 16, 16)
    assert VAECodec(full).id == "vae_f16d32"


def test_pixels_enter_between_minus_one_and_one(codec, vae):
    codec.sample = False
    for value, level in ((0, -1.0), (255, 1.0), (51, -0.6)):
        z = codec.encode(torch.full((1, 3, 16, 16), value, dtype=torch.uint8))
        torch.testing.assert_close(z, vae.encode(torch.full((1, 3, 16, 16), level)).mean.detach(), rtol=0, atol=1e-5)
        assert z.dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "pixel"), [(0.0, 128), (-1.0, 0), (1.0, 255), (5.0, 255), (-5.0, 0), (0.0039, 128), (0.0079, 129)]
)
def test_pixels_leave_by_the_release_s_rounding(value, pixel):
    vae = Constant(**TINY)
    vae.value = value
    image = VAECodec(vae, img_size=16).decode(torch.zeros(2, 4, 8, 8))
    assert image.dtype == torch.uint8
    assert image.shape == (2, 3, 16, 16)
    assert image.unique().tolist() == [pixel]


def test_encode_draws_around_the_mean(codec, images):
    latents = codec.encode_distribution(images)
    codec.generator = torch.Generator().manual_seed(7)
    first, second = codec.encode(images), codec.encode(images)
    assert not torch.equal(first, second)
    assert torch.equal(first, latents.sample(torch.Generator().manual_seed(7)))
    codec.generator.manual_seed(7)
    assert torch.equal(codec.encode(images), first)
    codec.sample = False
    assert torch.equal(codec.encode(images), latents.mean)


def test_chunks_do_not_change_the_result(codec, vae, images):
    small = VAECodec(copy.deepcopy(vae), img_size=16, chunk_size=2)
    for c in (codec, small):
        c.generator = torch.Generator().manual_seed(7)
    z = codec.encode(images)
    torch.testing.assert_close(small.encode(images), z, rtol=0, atol=1e-5)
    torch.testing.assert_close(small.decode_float(z), codec.decode_float(z), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("shape", [(4,), (1, 4, 1, 1), (4, 1, 1)])
def test_normalisation(vae, images, shape):
    mean, std = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([0.5, 2.0, 1.0, 4.0])
    plain = VAECodec(copy.deepcopy(vae), img_size=16, sample=False)
    codec = VAECodec(copy.deepcopy(vae), img_size=16, sample=False, mean=mean.view(shape), std=std.view(shape))
    z, x = plain.encode(images), codec.encode(images)
    torch.testing.assert_close(x, (z - mean.view(1, 4, 1, 1)) / std.view(1, 4, 1, 1))
    torch.testing.assert_close(codec.denormalise(x), z)
    torch.testing.assert_close(codec.decode_float(x), plain.decode_float(z), rtol=0, atol=1e-5)
    codec.set_normalisation()
    assert torch.equal(codec.encode(images), z)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"mean": [0.0] * 3}, r"mean needs 4 .*shape \(3,\)"),
        ({"mean": [0.0, 1.0, float("nan"), 0.0]}, "mean needs 4 finite numbers"),
        ({"std": torch.ones(5)}, "std needs 4 finite numbers"),
        ({"std": [1.0, 1.0, 0.0, 1.0]}, "std must be positive .*smallest is 0"),
    ],
)
def test_statistics_that_cannot_work(vae, statistics, message):
    with pytest.raises(ConfigError, match=message):
        VAECodec(vae, img_size=16, **statistics)


def test_statistics_are_copied(vae):
    mean = torch.zeros(4)
    codec = VAECodec(vae, img_size=16, mean=mean)
    mean += 1
    assert not codec.mean.any()


# ------------------------------------------------------------------------------------------ surroundings


@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
def test_a_module_neither_trains_nor_saves_it(codec, images):
    net = LightningDiT(input_size=8, in_channels=4, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    settings = FlowSettings(prediction="velocity", sampling_method="euler", num_sampling_steps=2)
    module = FlowModule(codec, net, num_classes=3, settings=settings)
    assert not isinstance(codec, nn.Module)
    assert all(name.startswith("net.") for name in module.state_dict())
    assert {id(p) for p in module.parameters()} == {id(p) for p in net.parameters()}
    labels = torch.tensor([0, 1, 2, 0, 1])
    loss = module.training_step((images, labels), 0)["loss"]
    loss.backward()
    assert net.final_layer.linear.weight.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in codec.vae.parameters())
    pictures = codec.decode(module.generate(labels, use_ema=False))
    assert pictures.shape == (5, 3, 16, 16)


def test_it_computes_in_float32_whatever_surrounds_it(codec, images):
    codec.sample = False
    z = codec.encode(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(images), z)
        assert torch.equal(codec.decode(z), codec.decode(z.float()))
    assert torch.equal(codec.decode_float(z.bfloat16()), codec.decode_float(z.bfloat16().float()))
    assert codec.decode_float(z.double()).dtype == torch.float32


def test_its_latents_can_be_trained_on_and_it_is_in_evaluation_mode(vae, images):
    codec = VAECodec(copy.deepcopy(vae).train(), img_size=16)
    assert not codec.vae.training
    z = codec.encode(images)
    assert not z.is_inference()
    weight = torch.ones(4, 1, 1, requires_grad=True)
    (z * weight).sum().backward()
    assert weight.grad is not None


def test_to_returns_the_codec(codec):
    assert codec.to("cpu") is codec
    assert codec.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 15}, "img_size 15x15 .* factor 2"),
        ({"img_size": (16, 7)}, "img_size 16x7"),
        ({"img_size": 0}, "img_size 0x0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1; got 0"),
    ],
)
def test_options_that_cannot_work(vae, options, message):
    with pytest.raises(ConfigError, match=message):
        VAECodec(vae, **{"img_size": 16, **options})


def test_data_of_another_shape(codec):
    for shape in ((1, 1, 16, 16), (1, 3, 16, 8), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"images of shape \(B, 3, 16, 16\); got"):
            codec.encode(torch.zeros(shape))
    for shape in ((1, 5, 8, 8), (4, 8, 8)):
        with pytest.raises(ValueError, match=r"latents of shape \(B, 4, h, w\); got"):
            codec.decode(torch.zeros(shape))


# ------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("prefix", ["", "module.", "first_stage_model."])
@pytest.mark.parametrize("section", [True, False])
def test_the_autoencoder_is_found_among_foreign_tensors(vae, tmp_path, prefix, section):
    path = tmp_path / "vavae.pt"
    tensors = {f"{prefix}{name}": value for name, value in {**foreign_tensors(), **vae.state_dict()}.items()}
    content = {"state_dict": tensors, "optimizer_states": [{"state": {0: torch.zeros(3)}}], "epoch": 3}
    torch.save(content if section else tensors, path)
    loaded = load_autoencoder(path, TINY)
    assert same_weights(loaded, vae)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_loading_draws_no_random_numbers_and_keeps_nothing_of_the_file(vae, tmp_path):
    path = tmp_path / "vavae.pt"
    torch.save({"state_dict": vae.state_dict()}, path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    loaded = load_autoencoder(path, TINY)
    assert torch.equal(torch.rand(1), expected)
    # Mapped tensors would change, or crash, with the file.
    path.write_bytes(bytes(path.stat().st_size))
    assert same_weights(loaded, vae)


def test_half_precision_files_become_float32(vae, tmp_path):
    torch.save({name: value.half() for name, value in vae.state_dict().items()}, tmp_path / "half.pt")
    loaded = load_autoencoder(tmp_path / "half.pt", TINY)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.quant_conv.weight, vae.quant_conv.weight.half().float(), check_stride=False)


def test_slim_export_is_bit_equal_and_carries_its_settings(vae, codec, tmp_path, images):
    torch.save({"state_dict": {**foreign_tensors(), **vae.state_dict()}}, tmp_path / "full.pt")
    full = VAECodec.from_file(tmp_path / "full.pt", config=TINY, img_size=16, sample=False)
    full.set_normalisation([1.0] * 4, [2.0] * 4)
    full.export(tmp_path / "slim.safetensors")
    assert load_file(tmp_path / "slim.safetensors").keys() == vae.state_dict().keys()
    slim = VAECodec.from_file(tmp_path / "slim.safetensors", img_size=16, sample=False)
    assert slim.vae.config == full.vae.config == TINY
    assert same_weights(slim.vae, vae)
    assert slim.checksum == full.checksum == codec.checksum
    slim.set_normalisation(full.mean, full.std)
    assert torch.equal(slim.encode(images), full.encode(images))
    # Bit for bit the same file again.
    slim.export(tmp_path / "again.safetensors")
    assert load_autoencoder(tmp_path / "again.safetensors").config == TINY
    assert slim.checksum == VAECodec.from_file(tmp_path / "again.safetensors", img_size=16).checksum


def test_foreign_safetensors_load_with_settings_given(vae, tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file({**vae.state_dict(), "foundation_model.x": torch.zeros(2)}, path)
    assert same_weights(load_autoencoder(path, TINY), vae)


def test_the_checksum_sees_values_names_and_shapes(vae):
    weights = vae.state_dict()
    before = weights_checksum(weights)
    assert re.fullmatch("[0-9a-f]{64}", before)
    assert weights_checksum(dict(reversed(weights.items()))) == before
    changed = {**weights, "quant_conv.bias": weights["quant_conv.bias"] + 1e-6}
    renamed = {("x" if name == "quant_conv.bias" else name): value for name, value in weights.items()}
    reshaped = {**weights, "quant_conv.bias": weights["quant_conv.bias"].view(2, -1)}
    assert len({before, *map(weights_checksum, (changed, renamed, reshaped))}) == 4


def test_a_slim_file_whose_weights_changed_is_refused(codec, tmp_path):
    path = tmp_path / "slim.safetensors"
    codec.export(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"slim\.safetensors is damaged"):
        load_autoencoder(path)
    with safe_open(tmp_path / "slim.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(codec.vae.state_dict(), path, metadata={**metadata, "config": "{"})
    with pytest.raises(CheckpointError, match="its settings cannot be read"):
        load_autoencoder(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[]", "settings cannot be read"),
        ('{"depth": 3}', "does not know: depth"),
        ('{"num_res_blocks": 1000000000}', "num_res_blocks .* from 1 to 16"),
        ('{"ch_mult": [1, "2"]}', "ch_mult .*whole numbers"),
        ('{"ch": 1048576}', "ch of an autoencoder"),
        ('{"scaling_factor": 0}', "scaling_factor"),
        ('{"shift_factor": null}', "shift_factor"),
    ],
)
def test_settings_in_a_file_are_checked_before_anything_is_built(codec, tmp_path, settings, message):
    path = tmp_path / "slim.safetensors"
    metadata = {"format": "jitflow autoencoder_kl", "checksum": codec.checksum, "config": settings}
    save_file(codec.vae.state_dict(), path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message) as error:
        load_autoencoder(path)
    assert "slim.safetensors" in str(error.value)


def test_files_that_are_something_else(vae, tmp_path):
    path = tmp_path / "file.pt"
    with pytest.raises(MissingFileError, match=r"autoencoder .*none\.pt does not exist"):
        load_autoencoder(tmp_path / "none.pt")

    net = LightningDiT(input_size=8, in_channels=4, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    torch.save({"model": net.state_dict(), "ema": net.state_dict(), "opt": {}}, path)
    with pytest.raises(CheckpointError, match=r"file\.pt holds no VA-VAE.*found: model"):
        load_autoencoder(path)

    torch.save({"state_dict": foreign_tensors()}, path)
    with pytest.raises(CheckpointError, match=r"loss \(3 tensors\), foundation_model \(2"):
        load_autoencoder(path)

    torch.save({"state_dict": {k: v for k, v in vae.state_dict().items() if not k.startswith("encoder.")}}, path)
    with pytest.raises(CheckpointError, match=r"decoder \(\d+ tensors\), quant_conv \(2"):
        load_autoencoder(path)

    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"file\.pt"):
        load_autoencoder(path)
    (tmp_path / "file.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_autoencoder(tmp_path / "file.safetensors")


def test_an_autoencoder_that_does_not_fit_names_what_is_wrong(vae, tmp_path):
    path = tmp_path / "vavae.pt"
    weights = vae.state_dict()
    del weights["decoder.conv_out.bias"]
    torch.save({"state_dict": weights}, path)
    with pytest.raises(CheckpointError, match=r"missing: decoder\.conv_out\.bias$"):
        load_autoencoder(path, TINY)

    torch.save({"state_dict": {**vae.state_dict(), "encoder.extra": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"not in the network: encoder\.extra$"):
        load_autoencoder(path, TINY)

    # Without its settings it is compared with f16d32.
    torch.save({"state_dict": vae.state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"missing: encoder\.down.*shape: encoder"):
        load_autoencoder(path)


def test_export_wants_safetensors(codec, tmp_path):
    with pytest.raises(ConfigError, match=r"\.safetensors file; got .*slim\.pt"):
        codec.export(tmp_path / "slim.pt")
    assert not list(tmp_path.iterdir())
