"""Consistency training by a recipe: it begins from a checkpoint, resumes bit by bit, and leaves a plain model."""

import pytest
import torch
from interruption import At, Interruption, power_cut
from tiny import assert_same_training

import jitflow
from jitflow.io.files import load_checkpoint
from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe

SHORT = {
    "model.net_settings": {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8},
    "trainer.limit_train_batches": 3,
    "trainer.limit_val_batches": 1,
    "trainer.accelerator": "cpu",
    "data.batch_size": 16,
    "data.num_workers": 0,
}
TUNED = {
    "init_from": "base",
    "model.loss_terms": {"consistency": {"stages": 3}},
    "model.velocity_weight": 0.0,
    "model.sampling_method": "euler",
    "model.num_sampling_steps": 1,
    "model.cfg_scale": 1.0,
    "checkpoint.save_last_every_n_steps": 2,
    "trainer.max_epochs": 2,
}


def test_it_resumes_bit_by_bit_and_samples_in_one_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(override(read_recipe("images/digits"), {**SHORT, "trainer.max_epochs": 1}), "base")
    recipe = override(read_recipe("images/digits"), {**SHORT, **TUNED})
    fit(recipe, "whole")
    with pytest.raises(Interruption):
        fit(recipe, "parted", callbacks=[At(5, power_cut)])
    fit(recipe, "parted")
    files = [tmp_path / run / "checkpoints" / "last.ckpt" for run in ("whole", "parted")]
    assert_same_training(*files)
    base = load_checkpoint("base/checkpoints/last.ckpt")["state_dict"]
    tuned = load_checkpoint(files[0])["state_dict"]
    assert tuned.keys() == base.keys()
    assert any(not torch.equal(value, base[name]) for name, value in tuned.items())
    samples = jitflow.load(files[0], device="cpu").sample([3], 0)
    assert samples.settings["network_evaluations"] == 1
