"""Checkpoints name their application; a name that is not installed is one error, and old records stay readable."""

import json

import pytest
import torch
from safetensors import safe_open

from jitflow.applications import get_application
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.module import TextLightningModule
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.lightning import recorded_application
from jitflow.checkpoint.load import load_module
from jitflow.checkpoint.state import ModelState
from jitflow.errors import CheckpointError, ConfigError
from jitflow.inspect.info import describe_path
from jitflow.io.files import load_checkpoint
from jitflow.training.module import FlowModule

JIT_NET = {"depth": 2, "hidden_size": 8, "num_heads": 2, "bottleneck_dim": 4}
DIT_NET = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}
# Class paths under which checkpoints were saved before they named their application.
OLD_NAMES = {
    "jitflow.training.jit_module.JiTLightningModule": "images",
    "jitflow.apps.images.module.JiTLightningModule": "images",
    "jitflow.training.text_module.TextLightningModule": "text",
    "jitflow.apps.text.module.TextLightningModule": "text",
    "jitflow.training.user_dit.UserConditionedDiT": "microdoppler",
    "jitflow.apps.microdoppler.module.UserConditionedDiT": "microdoppler",
}


def make(application):
    torch.manual_seed(0)
    if application == "images":
        return JiTLightningModule("JiT-N/4", 8, 2, in_channels=1, net_settings={**JIT_NET, "in_context_len": 2})
    if application == "text":
        return TextLightningModule("bytes", "JiT-N/4", 16, net_settings=JIT_NET)
    return UserConditionedDiT(2, "LightningDiT", (4, 2, 2), net_settings=DIT_NET)


def lightning(module):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def saved(path, trained, **record):
    """Save a checkpoint; entries of its record that are None are left out."""
    checkpoint = lightning(trained)
    merged = {**checkpoint["jitflow"], **record}
    checkpoint["jitflow"] = {name: value for name, value in merged.items() if value is not None}
    torch.save(checkpoint, path)
    return path


def rename_application(path, name):
    """Change the record of a safetensors file in place."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["application"] = name
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


@pytest.mark.parametrize("name", ["images", "text", "microdoppler"])
def test_a_module_is_that_of_its_application(name):
    application = get_application(name)
    assert application.name == application.module.application == name
    assert type(make(name)) is application.module


@pytest.mark.parametrize("application", ["images", "text", "microdoppler"])
def test_every_format_keeps_the_name_of_the_application(tmp_path, application):
    module = make(application)
    path = saved(tmp_path / "a.ckpt", module)
    record = load_checkpoint(path)["jitflow"]
    assert record["application"] == application == recorded_application(load_checkpoint(path))
    # To a file of weights, to a Lightning checkpoint made from that, and back.
    convert(path, tmp_path / "b.safetensors", ema=0)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["application"] == application
    convert(tmp_path / "b.safetensors", tmp_path / "c.ckpt")
    assert load_checkpoint(tmp_path / "c.ckpt")["jitflow"]["application"] == application
    for name in ("a.ckpt", "b.safetensors", "c.ckpt"):
        assert read_state(tmp_path / name).application == application
        loaded = load_module(tmp_path / name)
        assert type(loaded) is type(module)
        for key, value in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_only_jit_on_images_goes_into_the_releases_format(tmp_path):
    convert(saved(tmp_path / "images.ckpt", make("images")), tmp_path / "images.pth")
    state = read_state(tmp_path / "images.pth")
    assert state.lightning is None and state.application == "images"
    assert type(load_module(tmp_path / "images.pth")) is JiTLightningModule
    for application in ("text", "microdoppler"):
        path = saved(tmp_path / f"{application}.ckpt", make(application))
        with pytest.raises(ConfigError, match=r"\.pth is the JiT release's format"):
            convert(path, tmp_path / f"{application}.pth")
        assert not (tmp_path / f"{application}.pth").exists()


@pytest.mark.parametrize(("recorded", "application"), OLD_NAMES.items())
def test_a_checkpoint_with_a_class_path_alone_loads_as_before(tmp_path, caplog, recorded, application):
    path = saved(tmp_path / "old.ckpt", make(application), application=None, module=recorded)
    assert read_state(path).application == application == recorded_application(load_checkpoint(path))
    assert type(load_module(path)) is get_application(application).module
    assert not caplog.text
    # What is written from it names the application.
    convert(path, tmp_path / "new.ckpt")
    assert load_checkpoint(tmp_path / "new.ckpt")["jitflow"]["application"] == application


def test_an_old_file_of_weights_loads_as_before(tmp_path):
    state = read_state(saved(tmp_path / "a.ckpt", make("text")))
    state.module = "jitflow.training.text_module.TextLightningModule"
    write_state(state, tmp_path / "old.safetensors", ema=0)
    rename_application(tmp_path / "old.safetensors", "")
    assert type(load_module(tmp_path / "old.safetensors")) is TextLightningModule


def test_a_users_class_keeps_its_application(tmp_path, caplog):
    class Mine(TextLightningModule):
        pass

    torch.manual_seed(0)
    path = saved(tmp_path / "a.ckpt", Mine("bytes", "JiT-N/4", 16, net_settings=JIT_NET))
    assert read_state(path).application == "text" and read_state(path).module.endswith("Mine")
    assert type(load_module(path, module_class=Mine)) is Mine
    assert not caplog.text
    assert type(load_module(path)) is TextLightningModule
    assert "Mine" in caplog.text and "module_class" in caplog.text


def test_an_unknown_class_without_an_application_is_taken_for_images_with_a_warning(tmp_path, caplog):
    path = saved(tmp_path / "a.ckpt", make("images"), application=None, module="mine.Net")
    assert recorded_application(load_checkpoint(path)) == ""
    assert type(load_module(path)) is JiTLightningModule
    assert "mine.Net" in caplog.text
    assert FlowModule.application == ""
    assert ModelState({}, {}).application == "images"


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_of_an_application_that_is_not_installed(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    state = read_state(saved(tmp_path / "whole.ckpt", make("images")))
    state.application, state.module = "radar", "radar_package.Module"
    write_state(state, path, ema=0)
    with pytest.raises(CheckpointError, match=r"'radar'.*install .*module_class"):
        load_module(path)
    with pytest.raises(CheckpointError, match=r"'radar'.*install .*\.safetensors"):
        convert(path, tmp_path / "release.pth")
    # Everything that needs no code of the application goes on working.
    assert describe_path(path).facts["application"].startswith("radar")
    assert type(load_module(path, module_class=JiTLightningModule)) is JiTLightningModule
    convert(path, tmp_path / "again.ckpt")
    assert read_state(tmp_path / "again.ckpt").application == "radar"


@pytest.mark.parametrize("wrong", [3, ["images"], {"a": 1}, torch.zeros(1)], ids=str)
def test_a_record_of_the_wrong_kind_is_damage(tmp_path, wrong):
    path = saved(tmp_path / "a.ckpt", make("images"), application=wrong)
    with pytest.raises(CheckpointError, match=r"a\.ckpt is damaged"):
        load_module(path)
