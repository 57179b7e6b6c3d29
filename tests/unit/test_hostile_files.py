"""Files made to run code, to take memory, or to reach outside their folder, and what fuzzing found."""

from __future__ import annotations

import json
import os
import sys
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from safetensors.torch import save_file

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.images.shard_record import ShardRecord
from jitflow.apps.text.token_store import open_tokens
from jitflow.checkpoint.convert import resumable
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.lightning import to_lightning
from jitflow.checkpoint.load import init_from, load_module
from jitflow.checkpoint.state import ModelState
from jitflow.codec.latent import load_image_codec
from jitflow.errors import CheckpointError, ConfigError, DataError, JitflowError
from jitflow.evaluation.frechet import load_statistics
from jitflow.io.array_file import open_arrays
from jitflow.io.files import load_checkpoint
from jitflow.io.npz_file import npz_names, read_npz
from jitflow.run.recipe import build, read_recipe

NET = {"depth": 2, "hidden_size": 8, "num_heads": 2, "bottleneck_dim": 4, "in_context_len": 2}


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return JiTLightningModule("JiT-N/4", 8, 2, in_channels=1, net_settings=NET)


def lightning(module, **changed):
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    state = ModelState(settings=dict(module.hparams), weights=weights, ema1=dict(weights), epoch=1, step=3)
    return {**to_lightning(state), **changed}


def saved(tmp_path, content):
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("load", [load_checkpoint, read_state, load_module, load_image_codec])
def test_a_checkpoint_cannot_run_code(tmp_path, module, load):
    sprung = tmp_path / "sprung"
    path = saved(tmp_path, lightning(module, callbacks={"x": Trap(sprung)}))
    with pytest.raises(CheckpointError, match="objects other than tensors"):
        load(path)
    assert not sprung.exists()


def test_statistics_cannot_run_code(tmp_path):
    sprung = tmp_path / "sprung"
    np.savez(tmp_path / "a.npz", mu=np.array([Trap(sprung)], dtype=object), sigma=np.eye(1))
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read"):
        load_statistics(tmp_path / "a.npz")
    assert not sprung.exists()


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir"])
def test_a_recipe_cannot_run_code_by_being_read(tmp_path, tag):
    sprung = tmp_path / "sprung"
    (tmp_path / "a.yaml").write_text(f"model: !!{tag} [{sprung}]\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_recipe(tmp_path / "a.yaml")
    assert not sprung.exists()


def test_a_recipe_names_classes_of_ours_only():
    with pytest.raises(ConfigError, match="--allow_import subprocess"):
        build({"class_path": "subprocess.Popen", "init_args": {"args": "true"}})


def test_no_class_is_imported_by_a_name_from_a_file(tmp_path, module):
    content = lightning(module)
    content["jitflow"] = {**content["jitflow"], "module": "antigravity.Fly"}
    loaded = load_module(saved(tmp_path, content))
    assert type(loaded) is JiTLightningModule
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "settings",
    [
        {"net_settings": {**NET, "hidden_size": 1 << 40}},
        {"net_settings": {**NET, "depth": 1 << 30}},
        {"net_settings": {**NET, "in_context_len": 1 << 33}},
        {"num_classes": 1 << 40},
        {"model_name": "JiT-H/16", "net_settings": None},
        {"img_size": 1 << 30},
    ],
    ids=["width", "depth", "length", "classes", "variant", "size"],
)
def test_settings_cannot_ask_for_memory_that_the_weights_do_not_fill(tmp_path, module, settings):
    content = lightning(module)
    path = saved(tmp_path, {**content, "hyper_parameters": {**content["hyper_parameters"], **settings}})
    with pytest.raises(JitflowError):
        load_module(path)


def header(path, change):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    described = json.loads(content[8 : 8 + size])
    change(described)
    text = json.dumps(described).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def test_a_header_cannot_ask_for_more_than_the_file_holds(tmp_path, module):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    header(path, lambda d: d["w"].update(shape=[1 << 40], data_offsets=[0, 4 << 40]))
    with pytest.raises(DataError, match="damaged"):
        open_arrays(path)
    for load in (read_state, load_image_codec):
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            load(path)


# Parts of a checkpoint that are not what they should be.
WRONG_KINDS = [
    {"hyper_parameters": [1]},
    {"hyper_parameters": {3: 4}},
    {"state_dict": {"net.x": 3}},
    {"state_dict": 7},
    {"model_ema1": torch.zeros(2)},
    {"epoch": "x"},
    {"global_step": None},
    {"args": 5},
    {"jitflow": "x"},
]


@pytest.mark.parametrize(
    "changed",
    [*WRONG_KINDS, {"state_dict": {1: torch.zeros(1)}}],
    ids=lambda changed: str(next(iter(changed.items())))[:40],
)
def test_parts_of_the_wrong_kind_are_one_error(tmp_path, module, changed):
    path = saved(tmp_path, lightning(module, **changed))
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        load_module(path)
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        init_from(module, path)


@pytest.mark.parametrize(
    "changed",
    [
        *WRONG_KINDS,
        {"jitflow": {"module": 3}},
    ],
    ids=lambda changed: str(next(iter(changed.items())))[:40],
)
def test_the_reader_of_formats_alone_refuses_them(tmp_path, module, changed):
    path = saved(tmp_path, lightning(module, **changed))
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        read_state(path)


# An optimiser of the wrong kind blocks nothing that needs none.
WRONG_OPTIMIZERS = [5, 3, {"state": 3, "param_groups": []}, {"state": {}, "param_groups": [1]}, {"param_groups": []}]


@pytest.mark.parametrize("optimizer", WRONG_OPTIMIZERS, ids=str)
def test_an_optimiser_of_the_wrong_kind_is_left_out(tmp_path, module, optimizer):
    path = saved(tmp_path, lightning(module, optimizer_states=[optimizer]))
    write_state(read_state(path), tmp_path / "whole.pth")
    torch.save({**load_checkpoint(tmp_path / "whole.pth"), "optimizer": optimizer}, tmp_path / "release.pth")
    for file in (path, tmp_path / "release.pth"):
        state = read_state(file)
        assert state.optimizer is None and state.optimizer_left_out
        load_module(file)
        with pytest.raises(CheckpointError, match="init_from"):
            resumable(file, module, tmp_path / "scratch")


@pytest.mark.parametrize("changed", [{"args": 5}, {"epoch": []}])
def test_a_release_file_with_parts_of_the_wrong_kind(tmp_path, module, changed):
    write_state(read_state(saved(tmp_path, lightning(module))), tmp_path / "whole.pth")
    # Under another name, since the first is mapped.
    torch.save({**load_checkpoint(tmp_path / "whole.pth"), **changed}, tmp_path / "release.pth")
    with pytest.raises(CheckpointError, match=r"release\.pth"):
        read_state(tmp_path / "release.pth")


@pytest.mark.parametrize("entry", [("settings", "[1]"), ("settings", "3"), ("extra", "[]"), ("epoch", "x")])
def test_metadata_of_the_wrong_kind(tmp_path, module, entry):
    write_state(read_state(saved(tmp_path, lightning(module))), tmp_path / "a.safetensors")
    header(tmp_path / "a.safetensors", lambda d: d["__metadata__"].update([entry]))
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_state(tmp_path / "a.safetensors")


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, dtype, content) in members.items():
            text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
            archive.writestr(f"{name}.npy", start + text.encode() + content)
    return path


def test_statistics_cannot_ask_for_more_than_the_file_holds(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", mu=((1 << 40,), "<f8", bytes(8)), sigma=((1,), "<f8", bytes(8)))
    # No array may be made before the sizes are compared.
    monkeypatch.setattr(npy, "read_array", lambda *args, **kwargs: pytest.fail("read"))
    with pytest.raises(ConfigError, match=r"a\.npz .*mu\.npy declares 8796093022208"):
        load_statistics(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "content"),
    [((-1,), "<f8", bytes(8)), ((2, 1 << 62), "<f8", bytes(8)), ((1,), "|O", bytes(8)), ((1,), "<U1", b"\xff" * 4)],
    ids=["negative", "overflow", "objects", "no characters"],
)
def test_arrays_that_are_none_are_one_error(tmp_path, shape, dtype, content):
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read"):
        read_npz(npz(tmp_path / "a.npz", x=(shape, dtype, content)))


def test_a_member_that_is_no_array_is_one_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mu", b"no array")
        archive.writestr("sigma", b"no array")
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read"):
        load_statistics(tmp_path / "a.npz")


def test_whole_npz_files_are_read(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("words"), "c": np.int64(3), "d": np.zeros((0, 4))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        assert npz_names(tmp_path / "a.npz") == list(arrays)
        for name, value in read_npz(tmp_path / "a.npz").items():
            np.testing.assert_array_equal(value, arrays[name])
        assert set(read_npz(tmp_path / "a.npz", ["c", "x"])) == {"c"}
        assert set(read_npz(tmp_path / "a.npz", leave_out=["a", "b"])) == {"c", "d"}


@pytest.mark.parametrize(
    "changed",
    [
        {"ids": torch.zeros(2, 3, dtype=torch.int16)},
        {"ids": torch.zeros(6)},
        {"ends": torch.tensor([[3], [6]])},
        {"ends": torch.tensor([6, 3])},
        {"ends": torch.tensor([-1, 6])},
        {"ends": torch.tensor([3, 7])},
        {"ends": torch.zeros(0, dtype=torch.int64)},
        {"num_train": torch.tensor([7])},
        {"num_train": torch.tensor([-1])},
        {"num_train": torch.tensor(6)},
        {"num_train": torch.zeros(0, dtype=torch.int64)},
        {"num_train": torch.tensor([0.5])},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_tokens_of_the_wrong_shape_are_one_error(tmp_path, changed):
    whole = {
        "ids": torch.zeros(6, dtype=torch.int16),
        "ends": torch.tensor([3, 6]),
        "num_train": torch.tensor([3]),
    }
    save_file(whole, tmp_path / "t.safetensors")
    assert [stream.num_documents for stream in open_tokens(tmp_path / "t.safetensors")] == [1, 1]
    save_file({**whole, **changed}, tmp_path / "t.safetensors")
    with pytest.raises(DataError, match=r"t\.safetensors is damaged"):
        open_tokens(tmp_path / "t.safetensors")


@pytest.mark.parametrize("setting", [("img_size", "x"), ("num_classes", None), ("P_std", []), ("t_eps", {})])
def test_settings_of_the_wrong_kind_are_one_error(tmp_path, module, setting):
    content = lightning(module)
    path = saved(tmp_path, {**content, "hyper_parameters": {**content["hyper_parameters"], setting[0]: setting[1]}})
    with pytest.raises(JitflowError):
        load_module(path)


def test_a_whole_file_still_loads(tmp_path, module):
    write_state(read_state(saved(tmp_path, lightning(module))), tmp_path / "a.safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        loaded = load_module(tmp_path / name)
        for key, value in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "..", 3])
def test_a_shard_cannot_lie_outside_its_folder(name):
    content = {"file": name, "num_images": 1, "num_bytes": 1, "sha256": "0", "skipped": []}
    with pytest.raises(ValueError, match="folder itself"):
        ShardRecord.from_dict(content)


def test_a_recipe_that_is_no_text_is_one_error(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_recipe(tmp_path / "a.yaml")
