"""Checkpoints of people who already train with the code that the documents came from: weights first."""

from __future__ import annotations

import pathlib
import pickle

import numpy as np
import pytest
import torch
from foreign_checkpoints import NET, SETTINGS, documented_order, optimizer_over, owners, trained, weights_of_a_network
from lightning.fabric.utilities.data import AttributeDict

import jitflow
from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.convert import convert, resumable
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.jit_release import optimizer_names
from jitflow.checkpoint.load import init_from, load_module
from jitflow.checkpoint.optimizer_state import fit_optimizer
from jitflow.errors import CheckpointError
from jitflow.inspect.info import describe_path
from jitflow.io.files import load_checkpoint


@pytest.fixture(scope="module")
def weights():
    return weights_of_a_network()


@pytest.fixture(scope="module")
def moments(weights):
    return optimizer_over(weights, documented_order(weights), [0.1, 0.0])


def as_pth(weights, moments, **changed):
    return {
        "model": weights,
        "epoch": 1,
        "global_step": 3,
        "optimizer": moments,
        "model_ema1": weights,
        "model_ema2": weights,
        "hyper_parameters": SETTINGS,
        **changed,
    }


def as_lightning(weights, moments, **changed):
    return {
        "epoch": 1,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": weights,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [moments],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": dict(SETTINGS),
        **changed,
    }


def saved(path, content):
    torch.save(content, path)
    return path


def samples(path):
    return jitflow.load(path, device="cpu").sample(labels=[0, 3], seeds=[5, 6], steps=1, guidance=1.0).images()


def test_the_dictionary_of_lightning_is_opened_with_its_settings(tmp_path, weights, moments):
    path = saved(tmp_path / "a.pth", as_pth(weights, moments, hyper_parameters=AttributeDict(SETTINGS)))
    module = load_module(path)
    assert (module.noise_scale, module.learning_rate, module.cfg_interval) == (0.5, 3e-4, (0.1, 1.0))
    assert type(load_checkpoint(path)["hyper_parameters"]) is dict
    assert [image.tobytes() for image in samples(path)] == [
        image.tobytes() for image in samples(saved(tmp_path / "b.pth", as_pth(weights, moments)))
    ]


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_moments_lie_on_their_own_parameters_after_a_conversion(tmp_path, weights, moments, suffix):
    content = as_pth(weights, moments) if suffix == ".pth" else as_lightning(weights, moments)
    path = saved(tmp_path / f"a{suffix}", content)
    convert(path, tmp_path / "release.pth")
    for file in (path, tmp_path / "release.pth"):
        state = read_state(file)
        assert owners(state.optimizer, weights) == optimizer_names(weights)
        assert [group["weight_decay"] for group in state.optimizer["param_groups"]] == [0.0, 0.1]
        assert state.step == 3


@pytest.mark.parametrize("grouping", ["one group", "swapped", "ours"])
def test_moments_in_any_known_order_are_found(weights, grouping):
    names = trained(weights)
    decayed, plain = documented_order(weights)
    groups = {"one group": [names], "swapped": [plain, decayed], "ours": [plain, decayed]}[grouping]
    state = optimizer_over(weights, groups, [0.1] if len(groups) == 1 else [0.0, 0.1])
    found, why = fit_optimizer(state, {name: weights[name].shape for name in names})
    assert not why and owners(found, weights) == optimizer_names(weights)
    assert [group["weight_decay"] for group in found["param_groups"]] == [0.0, 0.1]
    assert (found is state) == (len(groups) == 2)


def test_recorded_names_win_over_shapes(weights):
    names = trained(weights)[::-1]
    state = optimizer_over(weights, [names], [0.1])
    shapes = {name: weights[name].shape for name in trained(weights)}
    assert fit_optimizer(state, shapes)[0] is None
    state["param_groups"][0]["param_names"] = [f"_orig_mod.module.{name.removeprefix('net.')}" for name in names]
    assert owners(fit_optimizer(state, shapes)[0], weights) == optimizer_names(weights)


def test_moments_that_fit_in_two_ways_are_left_out():
    shapes = {"a.weight": torch.Size([2, 2]), "norm.scale": torch.Size([2, 2])}
    entry = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(2, 2)}
    groups = [{"lr": 1e-3, "weight_decay": 0.0, "params": [0]}, {"lr": 1e-3, "weight_decay": 0.0, "params": [1]}]
    found, why = fit_optimizer({"state": {0: entry, 1: entry}, "param_groups": groups}, shapes)
    assert found is None and "more than one order" in why


@pytest.mark.parametrize("kind", ["missing", "shape", "sgd", "no state", "bad step"])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_an_optimiser_that_does_not_fit_never_blocks_the_weights(tmp_path, caplog, weights, moments, suffix, kind):
    state = {place: dict(entry) for place, entry in moments["state"].items()}
    groups = [dict(group) for group in moments["param_groups"]]
    odd = {"state": state, "param_groups": groups}
    if kind == "missing":
        groups[1]["params"] = groups[1]["params"][:-1]
    elif kind == "shape":
        state[2]["exp_avg"] = torch.zeros(2, 2)
    elif kind == "sgd":
        odd["state"] = {place: {"momentum_buffer": entry["exp_avg"]} for place, entry in state.items()}
    elif kind == "no state":
        odd = 5
    else:
        state[0]["step"] = "x"
    content = as_pth(weights, odd) if suffix == ".pth" else as_lightning(weights, odd)
    path = saved(tmp_path / f"a{suffix}", content)
    assert len(samples(path)) == 2
    fresh = JiTLightningModule(**SETTINGS)
    init_from(fresh, path)
    assert torch.equal(fresh.state_dict()["net.final_layer.linear.weight"], weights["net.final_layer.linear.weight"])
    caplog.clear()
    convert(path, tmp_path / "b.pth")
    assert next(r.message for r in caplog.records if "optimiser" in r.message).count("\n") == 0
    assert "optimizer" not in load_checkpoint(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="init_from"):
        resumable(path, fresh, tmp_path)
    assert "left out" in describe_path(path).facts["optimiser"]


def test_a_class_that_groups_in_its_own_way_converts_by_name(tmp_path, weights, moments):
    # A file of ours: on resuming, the class groups so again.
    path = saved(tmp_path / "a.ckpt", as_lightning(weights, moments, jitflow={"application": "images"}))
    assert owners(read_state(path).optimizer, weights) == [n for group in documented_order(weights) for n in group]
    convert(path, tmp_path / "b.pth")
    assert owners(load_checkpoint(tmp_path / "b.pth")["optimizer"], weights) == optimizer_names(weights)


def test_a_file_without_counters_is_refused_in_one_line_when_resumed(tmp_path, weights, moments):
    path = saved(tmp_path / "a.ckpt", as_lightning(weights, moments))
    with pytest.raises(CheckpointError, match="init_from"):
        resumable(path, JiTLightningModule(**SETTINGS), tmp_path)
    assert "init_from" in describe_path(path).facts["optimiser"]


def test_a_file_in_another_order_is_brought_into_ours_when_resumed(tmp_path, weights, moments):
    loops = {"fit_loop": {"kept": 1}}
    path = saved(tmp_path / "a.ckpt", as_lightning(weights, moments, loops=loops))
    adapted = load_checkpoint(resumable(path, JiTLightningModule(**SETTINGS), tmp_path / "scratch"))
    assert owners(adapted["optimizer_states"][0], weights) == optimizer_names(weights)
    assert adapted["loops"] == loops and adapted["epoch"] == 1


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_unknown_settings_that_are_null_are_dropped(tmp_path, weights, moments, suffix):
    given = {"hyper_parameters": {**SETTINGS, "base_lr": None}}
    content = as_pth(weights, moments, **given) if suffix == ".pth" else as_lightning(weights, moments, **given)
    path = saved(tmp_path / f"a{suffix}", content)
    assert load_module(path).learning_rate == 3e-4
    assert any("jitflow sample" in command for command in describe_path(path).commands)


def test_other_unknown_settings_are_named_by_info_and_by_sample(tmp_path, weights, moments):
    content = as_lightning(weights, moments, hyper_parameters={**SETTINGS, "base_lr": 5e-5, "warm": None})
    path = saved(tmp_path / "a.ckpt", content)
    with pytest.raises(CheckpointError, match="base_lr") as error:
        load_module(path)
    assert "warm" not in str(error.value)
    info = describe_path(path)
    assert "base_lr" in str(info.facts) and not any("jitflow sample" in command for command in info.commands)


def test_the_commands_agree(tmp_path, capsys, weights, moments):
    path = saved(tmp_path / "a.pth", as_pth(weights, moments, hyper_parameters=AttributeDict(SETTINGS)))
    assert cli.main(["info", str(path)]) == 0
    assert "jitflow sample" in capsys.readouterr().out
    words = ["sample", str(path), "--labels", "0-2", "--count", "1", "--steps", "1", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert len(list((tmp_path / "out").glob("*_seed*.png"))) == 3


# ------------------------------------------------------------------------------------------- what stays refused


@pytest.mark.parametrize("value", [np.float64(3.2), pathlib.PurePosixPath("a"), AttributeDict], ids=str)
def test_other_objects_are_refused_with_the_way_out(tmp_path, weights, moments, value):
    path = saved(tmp_path / "a.pth", {**as_pth(weights, moments), "best_fid": value})
    if value is AttributeDict:
        # Its name stands for a plain dictionary and does nothing.
        assert load_checkpoint(path)["best_fid"] is dict
        return
    with pytest.raises(CheckpointError, match="model_ema1"):
        load_checkpoint(path)


class Sprung(AttributeDict):
    """A class of a user's own that says where its code would run."""


def hostile_pickles(folder):
    """Pickles that try to run code through what is allowed, by name."""
    marker = str(folder / "sprung")
    path = b"lightning.fabric.utilities.data\nAttributeDict\n"
    text = f"X{chr(len(marker))}\0\0\0{marker}".encode()
    return {
        "os.mkdir": b"\x80\x02cos\nmkdir\n" + text + b"\x85R.",
        "eval": b"\x80\x02c__builtin__\neval\nX\x04\0\0\0open\x85R.",
        "attribute of the allowed": b"\x80\x02clightning.fabric.utilities.data\nAttributeDict.__class__\n)R.",
        "neighbour in the module": b"\x80\x02clightning.fabric.utilities.data\nsuggested_max_num_workers\nK\x01\x85R.",
        "setstate": b"\x80\x02c" + path + b")\x81}X\x0c\0\0\0__setstate__cos\nmkdir\ns" + text + b"b.",
        "build": b"\x80\x02c" + path + b")\x81}X\x01\0\0\0aK\x01sb.",
        "getattr": b"\x80\x02c__builtin__\ngetattr\ncos\nX\x06\0\0\0system\x86R.",
    }


@pytest.mark.parametrize(
    "name",
    [
        "os.mkdir",
        "eval",
        "attribute of the allowed",
        "neighbour in the module",
        "setstate",
        "build",
        "getattr",
        "subclass",
    ],
)
def test_the_allowed_names_run_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setattr(AttributeDict, "__init__", lambda *a, **k: pytest.fail("Lightning's code ran"))
    path = tmp_path / "a.pth"
    if name == "subclass":
        content = pickle.dumps(Sprung.__new__(Sprung), protocol=2)
    else:
        content = hostile_pickles(tmp_path)[name]
    # The old format of torch: magic number, protocol, system, object, keys of storages.
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(head) + content + pickle.dumps([], protocol=2))
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_settings_of_the_network_come_from_the_weights(tmp_path, weights, moments):
    wrong = {**SETTINGS, "num_classes": 1000, "img_size": 256, "model_name": "JiT-B/16"}
    module = load_module(saved(tmp_path / "a.pth", as_pth(weights, moments, hyper_parameters=wrong)))
    assert (module.num_classes, module.img_size) == (5, 8)
    assert module.hparams["net_settings"]["depth"] == NET["depth"]
