"""What a resumed run is told acts, is refused, or is said; the record tells what was run."""

from __future__ import annotations

import json
import shutil

import lightning.pytorch as pl
import pytest
import torch
import yaml

from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import JiTModelCheckpoint, LearningRateSchedulerCallback
from jitflow.data.digits import DigitsDataModule
from jitflow.io.files import load_checkpoint
from jitflow.run.curves import read_curves

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_len": 2}
WORDS = ["train", "--config", "mine.yaml"]


def write_recipe(folder):
    recipe = {
        "model": {
            "class_path": "jitflow.apps.images.module.JiTLightningModule",
            "init_args": {
                "model_name": "JiT-N/4",
                "img_size": 16,
                "num_classes": 10,
                "in_channels": 1,
                "learning_rate": 1e-3,
                "net_settings": NET,
            },
        },
        "data": {
            "class_path": "jitflow.data.digits.DigitsDataModule",
            "init_args": {"img_size": 16, "batch_size": 500},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False},
        "schedule": {"warmup_epochs": 0},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of the recipe, to be copied."""
    place = tmp_path_factory.mktemp("trained")
    write_recipe(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run("--run_dir", "r") == 0
    return place / "r"


def run(*words):
    return cli.main([*WORDS, *words])


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("way", [[], ["--resume", "auto"], ["--resume", "r"]])
@pytest.mark.parametrize(
    ("option", "value"), [("learning_rate", "1e-5"), ("weight_decay", "0.3"), ("label_drop_prob", "0.5")]
)
def test_settings_of_the_optimiser_are_refused_with_a_way_that_works(trained, folder, capsys, way, option, value):
    shutil.copytree(trained, folder / "r", symlinks=True)
    before = {file: file.read_bytes() for file in (folder / "r").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert run("--run_dir", "r", "--trainer.max_epochs", "2", f"--model.{option}", value, *way) == 1
    said = capsys.readouterr().err
    assert option in said and "--init_from" in said and "--resume r " not in said and "resuming with" not in said
    assert before == {file: file.read_bytes() for file in (folder / "r").rglob("*") if file.is_file()}
    words = [f"--model.{option}", value, "--init_from", "r", "--run_dir", "new"]
    assert run(*words) == 0
    assert record(folder / "new")["recipe"]["model"]["init_args"][option] == float(value)


def test_the_schedule_acts_and_the_record_says_so(folder, caplog):
    assert run("--run_dir", "r") == 0
    words = ["--trainer.max_epochs", "3", "--schedule.lr_schedule", "cosine", "--resume", "r"]
    assert run(*words) == 0
    assert "schedule.lr_schedule" in caplog.text
    rates = [point[-1] for point in read_curves(folder / "r")["train/lr"]]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] < 8e-4
    assert record(folder / "r")["recipe"]["schedule"]["lr_schedule"] == "cosine"


def test_a_run_keeps_its_seed_says_so_and_records_it(folder, caplog):
    assert run("--run_dir", "a", "--seed_everything", "7", "--trainer.max_epochs", "2") == 0
    assert run("--run_dir", "b", "--seed_everything", "7") == 0
    assert run("--resume", "b", "--seed_everything", "3", "--trainer.max_epochs", "2") == 0
    assert "seed_everything stays 7" in caplog.text
    assert record(folder / "b")["recipe"]["seed_everything"] == 7
    assert yaml.safe_load((folder / "b" / "config.yaml").read_text())["seed_everything"] == 7
    weights = [load_checkpoint(folder / name / "checkpoints" / "checkpoint-last.pth")["state_dict"] for name in "ab"]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_resume_of_another_run_goes_on_there(folder):
    assert run() == 0
    assert run("--run_dir", "runs/other", "--seed_everything", "7") == 0
    mine = folder / "runs" / "mine"
    before = {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()}
    assert run("--resume", "runs/other", "--seed_everything", "7", "--trainer.max_epochs", "2") == 0
    assert before == {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()}
    assert record(folder / "runs" / "other")["epochs"] == 2
    assert run("--resume", "runs/other", "--run_dir", "runs/mine", "--trainer.max_epochs", "3") == 1
    assert before == {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()}


def test_a_finished_checkpoint_begins_no_run_elsewhere(trained, folder, capsys):
    for resume in (trained, trained / "checkpoints" / "checkpoint-last.pth"):
        capsys.readouterr()
        assert run("--resume", str(resume), "--run_dir", "new") == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "checkpoint-last.pth" in line and "--init_from" in line
        assert not (folder / "new").exists()


def test_a_trainer_of_ones_own_obeys_the_module(tmp_path, caplog):
    def fit(epochs, resume=None, **settings):
        module = JiTLightningModule(
            "JiT-N/4", 16, 10, in_channels=1, net_settings=NET, **{"learning_rate": 1e-3, **settings}
        )
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            limit_train_batches=2,
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LearningRateSchedulerCallback("constant", 0), JiTModelCheckpoint(tmp_path)],
        )
        trainer.fit(module, datamodule=DigitsDataModule(16, batch_size=64), ckpt_path=resume)
        return trainer.optimizers[0].param_groups

    fit(1)
    caplog.clear()
    fit(2, tmp_path / "checkpoint-last.pth")
    assert not any("instead of" in r.message for r in caplog.records)
    groups = fit(3, tmp_path / "checkpoint-last.pth", learning_rate=1e-5, weight_decay=0.3)
    assert [group["lr"] for group in groups] == [1e-5, 1e-5]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.3]
    said = next(r.message for r in caplog.records if "instead of" in r.message)
    assert "learning_rate" in said and "weight_decay" in said
    saved = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert saved["hyper_parameters"]["learning_rate"] == saved["optimizer_states"][0]["param_groups"][0]["peak_lr"]
