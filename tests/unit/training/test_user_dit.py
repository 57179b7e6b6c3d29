"""The module of latents: what it takes from the data, keeps in checkpoints and refuses."""

from pathlib import Path

import pytest
import torch

import jitflow
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.load import load_module
from jitflow.codec.linear import LinearCodec
from jitflow.core.seeding import use_seeds
from jitflow.errors import CheckpointError, ConfigError

RELEASE = Path(__file__).parents[2] / "reference" / "lightningdit_tiny_ckpt.pt"
NET = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}


def tiny(**settings):
    given = {"num_users": 3, "model_name": "LightningDiT", "latent_shape": (4, 2, 2), "net_settings": NET, **settings}
    return UserConditionedDiT(**given)


@pytest.fixture
def linear():
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LinearCodec.fit([images], num_components=4, patch_size=4)


@pytest.fixture
def info(linear, tmp_path):
    linear.export(tmp_path / "linear_codec.safetensors")
    return {
        "num_classes": 3,
        "user_ids": [1, 4, 7],
        "latent_shape": (4, 2, 2),
        "mean": [0.5, -1.0, 0.0, 2.0],
        "std": [1.0, 2.0, 0.5, 0.25],
        "codec": {"id": linear.id, "checksum": linear.checksum, "img_size": [8, 8]},
        "linear_codec": tmp_path / "linear_codec.safetensors",
    }


def saved(module, path):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_default_is_the_documented_network():
    with torch.device("meta"):
        module = UserConditionedDiT()
    assert module.model_name == "LightningDiT-XL/1" and module.num_classes == 31
    assert module.latents.shape == (32, 16, 16)
    # The table has a row for "no user", which is label 31.
    assert module.net.y_embedder.embedding_table.weight.shape[0] == 32
    assert module.prediction == "velocity" and module.cfg_channels is None
    assert [term.name for term in module.loss_terms] == ["cosine"]
    assert not tiny(cosine_weight=0).loss_terms


def test_statistics_come_from_the_data_and_go_into_the_checkpoint(info, linear, tmp_path):
    module = tiny(label_drop_prob=0.2)
    module.adopt_data(info)
    raw = torch.randn(5, 4, 2, 2)
    expected = (raw - torch.tensor(info["mean"]).view(1, 4, 1, 1)) / torch.tensor(info["std"]).view(1, 4, 1, 1)
    torch.testing.assert_close(module.codec.encode(raw), expected)
    for path in (saved(module, tmp_path / "a.ckpt"), tmp_path / "a.safetensors"):
        if path.suffix == ".safetensors":
            convert(tmp_path / "a.ckpt", path, ema=0)
        loaded = load_module(path)
        assert isinstance(loaded, UserConditionedDiT)
        assert loaded.user_ids == [1, 4, 7] and loaded.codec_record == info["codec"]
        torch.testing.assert_close(loaded.codec.encode(raw), expected)
        pixels = loaded.codec.decode(expected)
        assert torch.equal(pixels, linear.decode(raw)) and pixels.dtype == torch.uint8
        for name, value in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)


def test_a_checkpoint_wins_over_the_data(info, tmp_path):
    module = tiny()
    module.adopt_data(info)
    loaded = load_module(saved(module, tmp_path / "a.ckpt"))
    loaded.adopt_data({**info, "mean": [9.0] * 4})
    assert loaded.codec.mean.flatten().tolist() == info["mean"]
    other = {**info, "codec": {**info["codec"], "checksum": "0" * 64}}
    with pytest.raises(ConfigError, match="codec"):
        loaded.check_data(other)


def test_an_autoencoder_is_only_recorded(info, tmp_path):
    module = tiny()
    vae = {"id": "vae_f4d4", "checksum": "ab" * 32, "img_size": [8, 8]}
    module.adopt_data({**info, "codec": vae, "linear_codec": None})
    loaded = load_module(saved(module, tmp_path / "a.ckpt"))
    with pytest.raises(ConfigError, match=r"vae_f4d4 .*abababababab\).*vavae_path"):
        loaded.codec.decode(torch.zeros(1, 4, 2, 2))


def test_another_codec_is_refused(info, linear, tmp_path):
    module = tiny()
    module.adopt_data(info)
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    other = LinearCodec.fit([images], num_components=4, patch_size=4)
    with pytest.raises(ConfigError, match=linear.checksum[:12]):
        module.attach_codec(other)
    module.attach_codec(linear)


def test_users_have_their_own_numbers(info):
    module = tiny()
    assert module.labels_of([3, 1]).tolist() == [2, 0]
    with pytest.raises(ConfigError, match="no user 0; its users are 1 to 3"):
        module.labels_of([1, 0])
    module.adopt_data(info)
    assert module.labels_of([7, 1, 4]).tolist() == [2, 0, 1]
    with pytest.raises(ConfigError, match="no user 2; its users are 1, 4, 7"):
        module.labels_of([2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, "num_users=4"),
        ({"latent_shape": (4, 4, 2)}, r"\(4, 4, 2\)"),
        ({"num_classes": 2}, "2 users"),
    ],
)
def test_data_that_does_not_fit(info, change, message):
    with pytest.raises(ConfigError, match=message):
        tiny().check_data({**info, **change})


def test_a_damaged_record_is_named(info, tmp_path):
    module = tiny()
    module.adopt_data(info)
    path = saved(module, tmp_path / "a.ckpt")
    for break_it in (lambda r: r.pop("mean"), lambda r: r["user_ids"].pop(), lambda r: r["codec"].pop("id")):
        checkpoint = torch.load(path, weights_only=False)
        break_it(checkpoint["jitflow"]["latents"])
        torch.save(checkpoint, tmp_path / "broken.ckpt")
        with pytest.raises(CheckpointError, match=r"latents|users"):
            load_module(tmp_path / "broken.ckpt")


def test_a_pixel_network_is_refused():
    with pytest.raises(ConfigError, match="JiT-N/4"):
        tiny(model_name="JiT-N/4")
    with pytest.raises(ConfigError, match="num_users"):
        tiny(num_users=0)


def test_release_checkpoint_of_lightningdit_loads():
    module = load_module(RELEASE)
    assert isinstance(module, UserConditionedDiT)
    release = torch.load(RELEASE, weights_only=False)
    for name, value in release["model"].items():
        assert torch.equal(module.net.state_dict()[name], value)
    for name in module.ema_params1:
        assert torch.equal(module.ema_params1[name], release["ema"][name.removeprefix("net.")])
    with pytest.raises(ConfigError, match="JiT release"):
        convert(RELEASE, RELEASE.with_name("never.pth"))
    assert not RELEASE.with_name("never.pth").exists()


def test_release_file_converts_and_samples_the_same(tmp_path):
    convert(RELEASE, tmp_path / "a.ckpt")
    convert(RELEASE, tmp_path / "a.safetensors", ema="all")
    first = None
    for path in (RELEASE, tmp_path / "a.ckpt", tmp_path / "a.safetensors"):
        module = jitflow.load(path, device="cpu").module
        module.num_sampling_steps = 3
        with use_seeds([5]):
            x = module.generate(torch.tensor([1]))
        first = x if first is None else first
        assert torch.equal(x, first)
