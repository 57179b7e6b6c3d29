"""The method of docs/add_a_method.md trains, resumes bit by bit, and leaves nothing in an export."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from interruption import At, Interruption, power_cut
from tiny import assert_same_training

import jitflow
from jitflow.checkpoint.formats import read_state
from jitflow.cli import main
from jitflow.errors import ConfigError
from jitflow.io.files import load_checkpoint
from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"
TERM = "loss_terms.mean_colour.head.weight"
SHORT = {
    "model.net_settings": {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8},
    "model.loss_terms": {"my_method.MeanColour": {"weight": 0.1}},
    "trainer.limit_train_batches": 3,
    "trainer.limit_val_batches": 1,
    "trainer.accelerator": "cpu",
    "data.batch_size": 16,
    "data.num_workers": 0,
}


def block(language):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return text


@pytest.fixture
def user_file(tmp_path, monkeypatch):
    """The page's file, in the folder where the user works."""
    (tmp_path / "my_method.py").write_text(block("python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_file_is_short():
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 20


def test_it_trains_and_resumes_bit_by_bit(user_file, tmp_path):
    saving = {"checkpoint.save_last_every_n_steps": 2, "trainer.max_epochs": 2}
    recipe = override(read_recipe("images/digits"), {**SHORT, **saving})
    fit(recipe, "whole", allow_import=["my_method"])
    with pytest.raises(Interruption):
        fit(recipe, "parted", callbacks=[At(5, power_cut)], allow_import=["my_method"])
    fit(recipe, "parted", allow_import=["my_method"])
    files = [tmp_path / run / "checkpoints" / "last.ckpt" for run in ("whole", "parted")]
    assert_same_training(*files)
    assert TERM in load_checkpoint(files[0])["state_dict"] and TERM not in load_checkpoint(files[0])["model_ema1"]
    # A recipe of a file names no classes of other packages, whether imported or not.
    with pytest.raises(ConfigError, match="my_method"):
        fit(recipe, "other")


def test_the_commands_of_the_page(user_file, tmp_path):
    quick = " ".join(f"--{name}={value}" for name, value in SHORT.items() if not isinstance(value, dict))
    for line in block("bash").strip().splitlines():
        words = shlex.split(line)
        assert main([*words[1:], *(quick.split() if words[1] == "train" else ())]) == 0, line
    assert TERM in load_checkpoint("runs/method/checkpoints/last.ckpt")["state_dict"]
    exported, plain = read_state("plain.safetensors"), jitflow.load("plain.safetensors").module
    assert not exported.settings["loss_terms"] and "loss_terms" not in exported.extra
    assert exported.weights.keys() == plain.state_dict().keys() and not len(plain.loss_terms)
    with torch.no_grad():
        trained = load_checkpoint("runs/method/checkpoints/last.ckpt")["model_ema1"]
        assert all(torch.equal(value, trained[name]) for name, value in plain.named_parameters() if name in trained)
    assert len(list(Path("drawn").glob("*.png"))) == 2
