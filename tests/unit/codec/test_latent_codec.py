"""Latents as data: normalisation both ways, and no image through a codec that did not make them."""

import pytest
import torch
from torch import nn

from jitflow.codec.latent import LatentCodec, load_image_codec
from jitflow.codec.linear import LinearCodec
from jitflow.codec.vae import VAECodec
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.nets.autoencoder_kl import AutoencoderKL

MEAN, STD = [1.0, -2.0, 0.5, 0.0], [0.5, 2.0, 1.0, 4.0]


def make_linear(seed=0, img_size=32):
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    fitted = LinearCodec.fit([images], num_components=4)
    return LinearCodec(fitted.components, fitted.patch_mean, img_size=img_size)


def make_vae(seed=0, **options):
    torch.manual_seed(seed)
    vae = AutoencoderKL(embed_dim=4, ch=32, ch_mult=[1, 2], resolution=16, num_res_blocks=1, attn_resolutions=[8])
    return VAECodec(vae, img_size=4, **options)


@pytest.fixture
def raw():
    return torch.randn(5, 4, 2, 2, generator=torch.Generator().manual_seed(1)) * 3 + 1


@pytest.mark.parametrize("shape", [(4,), (1, 4, 1, 1)])
def test_normalisation_and_back(raw, shape):
    codec = LatentCodec((4, 2, 2), torch.tensor(MEAN).view(shape), torch.tensor(STD).view(shape))
    x = codec.encode(raw)
    for c in range(4):
        torch.testing.assert_close(x[:, c], (raw[:, c] - MEAN[c]) / STD[c])
    torch.testing.assert_close(codec.denormalise(x), raw)
    assert codec.encode(raw.double()).dtype == codec.denormalise(x.bfloat16()).dtype == torch.float32


def test_without_statistics_nothing_changes(raw):
    codec = LatentCodec((4, 2, 2))
    assert torch.equal(codec.encode(raw), raw)
    assert codec.shape == (4, 2, 2)
    assert LatentCodec().shape == (32, 16, 16)
    assert not isinstance(codec, nn.Module)
    codec.set_normalisation(MEAN, STD)
    assert codec.std.flatten().tolist() == STD


@pytest.mark.parametrize("make", [make_linear, make_vae])
def test_images_come_from_the_attached_codec(raw, make):
    images = make()
    codec = LatentCodec((4, 2, 2), MEAN, STD, images)
    x = codec.encode(raw)
    torch.testing.assert_close(codec.decode_float(x), images.decode_float(raw), rtol=0, atol=1e-5)
    pixels = codec.decode(x)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (5, 3, *images.img_size)
    assert codec.img_size == images.img_size
    assert (codec.expected_id, codec.expected_checksum) == (images.id, images.checksum)
    assert codec.to("cpu") is codec


def test_without_an_image_codec_there_are_no_images(raw):
    codec = LatentCodec((4, 2, 2), expected_id="vae_f16d32", expected_checksum="0123456789abcdef")
    assert codec.img_size is None
    assert codec.to("cpu") is codec
    for decode in (codec.decode, codec.decode_float):
        with pytest.raises(ConfigError, match=r"vae_f16d32 .*0123456789ab\).*vavae_path"):
            decode(raw)
    with pytest.raises(ConfigError, match="an unknown codec; pass --vavae_path"):
        LatentCodec((4, 2, 2)).decode(raw)


def test_another_codec_of_the_same_kind_is_refused():
    made_by, other = make_linear(0), make_linear(1)
    codec = LatentCodec((4, 2, 2), expected_id=made_by.id, expected_checksum=made_by.checksum)
    with pytest.raises(
        ConfigError, match=f"{made_by.checksum[:12]}, and the given one has {other.checksum[:12]}; pass"
    ):
        codec.attach(other)
    assert codec.images is None
    assert codec.attach(made_by) is codec
    assert codec.images is made_by


def test_a_codec_of_another_kind_is_refused():
    made_by, other = make_linear(), make_vae()
    codec = LatentCodec((4, 2, 2), expected_id=made_by.id, expected_checksum=made_by.checksum)
    with pytest.raises(ConfigError, match=rf"linear_f16d4 .*{made_by.checksum[:12]}\).* is vae_f2d4"):
        codec.attach(other)


def test_a_codec_for_another_size_is_refused():
    with pytest.raises(ConfigError, match=r"\(4, 4, 4\) .*64x64.*\(4, 2, 2\)"):
        LatentCodec((4, 2, 2), images=make_linear(img_size=64))


def test_an_autoencoder_that_normalises_by_itself_is_refused():
    for options in ({"mean": MEAN}, {"std": STD}):
        with pytest.raises(ConfigError, match="normalises already"):
            LatentCodec((4, 2, 2), images=make_vae(**options))


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"mean": MEAN[:3]}, r"mean needs 4 .*shape \(3,\)"),
        ({"mean": [*MEAN[:3], float("inf")]}, "mean needs 4 finite numbers"),
        ({"std": [1.0] * 5}, "std needs 4 finite numbers"),
        ({"std": [1.0, 1.0, 1.0, 0.0]}, "std must be positive .*smallest is 0"),
    ],
)
def test_statistics_that_cannot_work(statistics, message):
    codec = LatentCodec((4, 2, 2), MEAN, STD)
    with pytest.raises(ConfigError, match=message):
        codec.set_normalisation(**statistics)
    assert codec.mean.flatten().tolist() == MEAN
    assert codec.std.flatten().tolist() == STD


def test_shapes_that_cannot_work(raw):
    with pytest.raises(ConfigError, match=r"shape of latents .*got \(4, 2\)"):
        LatentCodec((4, 2))
    for wrong in (raw[:, :3], raw[..., :1], raw[0]):
        with pytest.raises(ValueError, match=r"latents of shape \(B, 4, 2, 2\); got"):
            LatentCodec((4, 2, 2)).encode(wrong)


def test_the_kind_of_a_file_is_found(tmp_path):
    linear, vae = make_linear(), make_vae()
    linear.export(tmp_path / "linear.safetensors")
    vae.export(tmp_path / "vae.safetensors")
    found = load_image_codec(tmp_path / "linear.safetensors", img_size=64)
    assert isinstance(found, LinearCodec)
    assert found.checksum == linear.checksum
    assert found.shape == (4, 4, 4)
    found = load_image_codec(tmp_path / "vae.safetensors", img_size=(4, 8))
    assert isinstance(found, VAECodec)
    assert found.checksum == vae.checksum
    assert found.img_size == (4, 8)

    with pytest.raises(MissingFileError, match=r"image codec .*none\.pt does not exist"):
        load_image_codec(tmp_path / "none.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="holds no VA-VAE"):
        load_image_codec(tmp_path / "other.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors cannot be read"):
        load_image_codec(tmp_path / "bad.safetensors")
