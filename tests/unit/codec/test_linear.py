"""The built-in codec: components that are known beforehand, files, and an honest measure of what it loses."""

import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from jitflow.codec.linear import LinearCodec, psnr, reconstruction_psnr
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError


def smooth_images(num=12, side=64, seed=0):
    """Sums of a few waves plus noise, as spectrograms are: most of it in few components."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    pictures = []
    for _ in range(num):
        waves = sum(
            rng.normal() * np.cos(2 * np.pi * (rng.uniform(0, 6) * x + rng.uniform(0, 6) * y + rng.uniform()))
            for _ in range(4)
        )
        grey = 128 + 30 * waves + rng.normal(0, 6, (side, side))
        pictures.append(np.stack([grey, 0.5 * grey + 40, 255 - grey]))
    return torch.from_numpy(np.stack(pictures).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def images():
    return smooth_images()


@pytest.fixture(scope="module")
def codec(images):
    return LinearCodec.fit(images.split(5))


def test_shape_and_names(codec):
    assert codec.shape == (32, 4, 4)
    assert codec.img_size == (64, 64)
    assert codec.id == "linear_f16d32"
    assert codec.patch_size == 16
    assert codec.device == torch.device("cpu")
    assert codec.to("cpu") is codec
    assert not isinstance(codec, nn.Module)
    assert LinearCodec(codec.components, codec.patch_mean, img_size=256).shape == (32, 16, 16)
    assert LinearCodec(codec.components, codec.patch_mean, img_size=(32, 64)).shape == (32, 2, 4)


def test_components_are_numpy_s_principal_components(images):
    codec = LinearCodec.fit([images], num_components=5, patch_size=8)
    # Patch by patch with loops: channel, row, column inside a patch.
    patches = np.array(
        [
            image[:, r : r + 8, c : c + 8].numpy().ravel() / 127.5 - 1
            for image in images
            for r in range(0, 64, 8)
            for c in range(0, 64, 8)
        ]
    )
    mean = patches.mean(0)
    _, _, rows = np.linalg.svd(patches - mean, full_matrices=False)
    assert np.abs(codec.patch_mean.numpy() - mean).max() < 1e-6
    agreement = np.abs((codec.components.numpy() * rows[:5]).sum(1))
    assert np.abs(agreement - 1).max() < 1e-6


def test_components_are_orthonormal_ordered_and_signed(codec, images):
    gram = codec.components @ codec.components.T
    assert (gram - torch.eye(32)).abs().max() < 1e-5
    deviations = codec.encode(images).permute(1, 0, 2, 3).flatten(1).std(1)
    assert (deviations.diff() <= 1e-6).all()
    # The third channel is the first one's negative, so of the largest numbers there are two, told apart by rounding.
    sizes = codec.components.abs()
    first = (sizes > sizes.amax(1, keepdim=True) - 1e-6).int().argmax(1, keepdim=True)
    assert (codec.components.gather(1, first) > 0).all()


def test_latents_lie_where_their_patch_lies(codec, images):
    latents = codec.encode(images)
    assert latents.dtype == torch.float32
    assert latents.shape == (12, 32, 4, 4)
    patch = images[3, :, 16:32, 48:64].float().flatten() / 127.5 - 1
    expected = codec.components @ (patch - codec.patch_mean)
    torch.testing.assert_close(latents[3, :, 1, 3], expected, rtol=0, atol=1e-5)


def test_all_components_give_every_pixel_back(images):
    codec = LinearCodec.fit([images], num_components=48, patch_size=4)
    latents = codec.encode(images)
    assert torch.equal(codec.decode(latents), images)
    torch.testing.assert_close(codec.decode_float(latents), images.float() / 127.5 - 1, rtol=0, atol=1e-5)
    assert reconstruction_psnr(codec, images).mean_db == math.inf


def test_decoding_is_the_projection(codec, images):
    latents = codec.encode(images)
    back = codec.decode_float(latents)
    again = codec.encode((back + 1) * 127.5)
    torch.testing.assert_close(again, latents, rtol=0, atol=1e-4)


def test_decoding_rounds_and_clips():
    codec = LinearCodec(torch.eye(768)[:1], torch.full((768,), -1.0), img_size=16)
    for value, pixel in ((-3.0, 0), (0.0, 0), (1 / 127.5, 1), (0.004, 1), (0.003, 0), (2.0, 255), (9.0, 255)):
        image = codec.decode(torch.full((1, 1, 1, 1), value))
        assert image.dtype == torch.uint8
        assert image[0, 0, 0, 0] == pixel
        assert image.sum() == pixel


def test_the_fit_does_not_depend_on_batches_or_order(codec, images):
    one_by_one = LinearCodec.fit(images.flip(0).split(1))
    assert torch.equal(one_by_one.components, codec.components)
    assert torch.equal(one_by_one.patch_mean, codec.patch_mean)
    assert one_by_one.checksum == codec.checksum
    assert LinearCodec.fit([images[:11]]).checksum != codec.checksum


def test_batch_size_does_not_change_the_latents(codec, images):
    parts = torch.cat([codec.encode(part) for part in images.split(1)])
    torch.testing.assert_close(parts, codec.encode(images), rtol=0, atol=1e-5)


def test_images_that_are_no_squares():
    wide = smooth_images(5, 64)[:, :, :32]
    codec = LinearCodec.fit([wide])
    assert codec.shape == (32, 2, 4)
    assert codec.decode(codec.encode(wide)).shape == wide.shape


def test_other_precisions_around_it(codec, images):
    latents = codec.encode(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(images), latents)
        assert torch.equal(codec.decode(latents.double()), codec.decode(latents))


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, DataError, "^0 patches .*16x16 .*too few for 32"),
        ([smooth_images(2, 64)], {}, DataError, "^32 patches .* too few for 32 components"),
        ([torch.full((40, 3, 64, 64), 9, dtype=torch.uint8)], {}, DataError, "differ in 0 ways only, and 32 comp"),
        ([smooth_images(2, 40)], {}, ConfigError, "img_size 40x40 .* patches of 16"),
        ([smooth_images(2, 64), smooth_images(2, 32)], {}, DataError, r"got \(32, 32\) after \(64, 64\)"),
        ([smooth_images(2, 64).float()], {}, DataError, r"uint8 of shape .*got torch\.float32"),
        ([smooth_images(2, 64)[:, :1]], {}, DataError, r"got torch.uint8 \(2, 1, 64, 64\)"),
        ([smooth_images(2, 64)], {"num_components": 769}, ConfigError, "between 1 and 768; got 769"),
        ([smooth_images(2, 64)], {"num_components": 0}, ConfigError, "between 1 and 768; got 0"),
    ],
)
def test_images_that_cannot_be_fitted(batches, options, error, message):
    with pytest.raises(error, match=message):
        LinearCodec.fit(batches, **options)


def test_one_patch_more_than_components_is_enough():
    images = torch.randint(0, 256, (11, 3, 16, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codec = LinearCodec.fit([images])
    # 33 points span 32 directions: nothing is lost.
    assert reconstruction_psnr(codec, images).mean_db > 55


def test_data_of_another_shape(codec):
    for shape in ((1, 1, 64, 64), (1, 3, 64, 32), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"images of shape \(B, 3, 64, 64\); got"):
            codec.encode(torch.zeros(shape))
    for shape in ((1, 31, 4, 4), (32, 4, 4)):
        with pytest.raises(ValueError, match=r"latents of shape \(B, 32, h, w\); got"):
            codec.decode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("components", "mean", "message"),
    [
        (torch.zeros(4, 768), torch.zeros(767), "do not fit each other"),
        (torch.zeros(768), torch.zeros(()), "do not fit each other"),
        (torch.zeros(4, 767), torch.zeros(767), "767 numbers are no square RGB patches"),
        (torch.zeros(4, 768), torch.zeros(768), "img_size 20x20 must be divisible"),
    ],
)
def test_tensors_that_are_no_codec(components, mean, message):
    with pytest.raises(ConfigError, match=message):
        LinearCodec(components, mean, img_size=20)


# ------------------------------------------------------------------------------------------------- files


def test_files_give_the_codec_back(codec, images, tmp_path):
    path = tmp_path / "linear_codec.safetensors"
    codec.export(path)
    back = LinearCodec.from_file(path)
    assert back.checksum == codec.checksum
    assert (back.img_size, back.shape) == (codec.img_size, codec.shape)
    assert torch.equal(back.encode(images), codec.encode(images))
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "jitflow linear_codec"


def test_checkpoints_give_the_codec_back(codec, tmp_path):
    torch.save({"codec": codec.state()}, tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["codec"]
    back = LinearCodec.from_state(state)
    assert back.checksum == codec.checksum
    assert back.img_size == (64, 64)
    assert state["id"] == "linear_f16d32"


def test_damaged_states(codec):
    state = codec.state()
    for name in ("components", "patch_mean", "img_size", "checksum"):
        with pytest.raises(CheckpointError, match=f"run.ckpt holds no whole linear codec .*{name}"):
            LinearCodec.from_state({k: v for k, v in state.items() if k != name}, source="run.ckpt")
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        LinearCodec.from_state({**state, "patch_mean": state["patch_mean"] + 1e-3})
    with pytest.raises(CheckpointError, match="no whole linear codec"):
        LinearCodec.from_state({**state, "components": "x"})


def test_files_that_are_something_else(codec, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(MissingFileError, match=r"codec .*x\.safetensors does not exist"):
        LinearCodec.from_file(path)
    save_file({"encoder.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is no .*encoder\.weight"):
        LinearCodec.from_file(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read"):
        LinearCodec.from_file(path)

    codec.export(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, "more": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"is no linear codec; it holds .*more"):
        LinearCodec.from_file(path)
    save_file({**tensors, "patch_mean": tensors["patch_mean"] + 1}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
        LinearCodec.from_file(path)
    save_file(tensors, path, metadata={**metadata, "img_size": "["})
    with pytest.raises(CheckpointError, match="settings cannot be read"):
        LinearCodec.from_file(path)
    with pytest.raises(ConfigError, match=r"\.safetensors file; got .*x\.pt"):
        codec.export(tmp_path / "x.pt")


# -------------------------------------------------------------------------------------------------- PSNR


def test_psnr_of_known_errors():
    images = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    others = images.clone()
    others[0] += 1
    others[1] -= 10
    others[2, :, :2] += 2
    found = psnr(images, others)
    # Mean squared errors 1, 100 and 2.
    each = [20 * math.log10(255) - 10 * math.log10(e) for e in (1, 100, 2)]
    assert found.mean_db == pytest.approx(sum(each) / 3)
    assert found.pooled_db == pytest.approx(20 * math.log10(255) - 10 * math.log10(103 / 3))
    assert found.num_images == 3
    # 8 bits must not wrap around.
    assert psnr(images * 0, images * 0 + 255).mean_db == 0
    for wrong in ((images, others[:2]), (images[:0], others[:0])):
        with pytest.raises(ValueError, match="must be pairs"):
            psnr(*wrong)


def test_more_components_keep_more(images):
    found = [reconstruction_psnr(LinearCodec.fit([images], num_components=n), images) for n in (2, 8, 32)]
    assert found[0].mean_db + 1 < found[1].mean_db < found[2].mean_db - 1
    assert found[2].num_images == 12
    assert found[2].pooled_db <= found[2].mean_db
