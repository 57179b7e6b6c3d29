"""The command line from a user's chair: what works, and what each mistake says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import jitflow
from jitflow import cli
from jitflow.errors import CheckpointError
from jitflow.run.folder import read_run_record
from jitflow.run.recipe import find_recipe, list_recipes, read_recipe
from jitflow.training.asked import parse_labels
from jitflow.training.sections import parse_interval

pytestmark = pytest.mark.reports


@pytest.fixture(scope="module")
def demo(quick_demo, tmp_path_factory) -> Path:
    return shutil.copytree(quick_demo, tmp_path_factory.mktemp("demo") / "images", symlinks=True)


def run(capsys, *words: str) -> tuple[int, str]:
    status = cli.main(list(map(str, words)))
    captured = capsys.readouterr()
    return status, captured.out + captured.err


# The others train, draw thousands of images, or need ImageNet or a browser: the pages of docs/ run them smaller, and
# tests/unit/test_verb_examples.py gives their words to their own parsers.
RUNNABLE = ("sample", "convert", "export", "info", "runs", "report", "doctor", "models")


@pytest.mark.parametrize("verb", RUNNABLE)
def test_the_example_of_a_verb_runs(verb, demo, tmp_path_factory, monkeypatch, capsys):
    folder = tmp_path_factory.mktemp(verb)
    shutil.copytree(demo, folder / "runs" / "demo" / "images", symlinks=True)
    monkeypatch.chdir(folder)
    checkpoint = str(Path("runs/demo/images/checkpoints/last.ckpt"))
    if verb == "convert":
        assert cli.main(["convert", checkpoint, "checkpoint-last.pth"]) == 0
    words = shlex.split(cli.VERBS[verb].example)
    assert words[0] == "jitflow" and cli.main(words[1:]) == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err


@pytest.mark.parametrize(
    ("verb", "commands"),
    [
        ("text", ("train", "sample", "evaluate")),
        ("data", ("prepare", "check")),
        ("microdoppler", ("simulate", "extract", "train", "sample", "evaluate", "run")),
    ],
)
def test_a_verb_of_several_commands_lists_them(verb, commands, capsys):
    for words in ([verb], [verb, "--help"]):
        assert cli.main(words) == 0
        shown = capsys.readouterr().out
        assert all(f"jitflow {verb} {command}" in shown for command in commands)


def test_help_lists_every_verb(capsys):
    status, text = run(capsys, "--help")
    assert status == 0
    for verb in cli.VERBS:
        assert verb in text


def test_sample_writes_images_a_grid_and_every_setting(demo, tmp_path, capsys):
    checkpoint = demo / "checkpoints" / "last.ckpt"
    words = ["sample", checkpoint, "--labels", "3,7-8", "--count", 2, "--seed", 5, "--steps", 3, "--guidance", 2]
    status, text = run(capsys, *words, "--solver", "heun", "--interval", "0.1,0.9", "--out", tmp_path / "out")
    assert status == 0, text
    names = [
        f"{i:06d}_class{y}_seed{s}.png" for i, (y, s) in enumerate(zip([3, 3, 7, 7, 8, 8], range(5, 11), strict=True))
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*names, "grid.png", "settings.json"])
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["guidance"] == 2 and settings["interval"] == [0.1, 0.9] and settings["solver"] == "heun"
    assert settings["steps"] == 3 and settings["network_evaluations"] == 5 and settings["ema"] == 1
    assert [i["file"] for i in settings["images"]] == names


def test_the_same_seed_is_the_same_image_from_python_at_any_batch_size(demo):
    model = jitflow.load(demo / "checkpoints" / "last.ckpt", device="cpu")
    # Two epochs teach it only grey; shaken weights make images that differ.
    generator = torch.Generator().manual_seed(0)
    for parameter in model.module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    settings = {"guidance": 2.0, "steps": 4, "ema": 0}
    all_at_once = model.sample(labels=[1, 2, 3, 4, 5], seeds=[9, 8, 7, 6, 5], **settings)
    alone = model.sample(labels=[3], seeds=[7], batch_size=1, **settings)
    assert (all_at_once.pixels[2].int() - alone.pixels[0].int()).abs().max() <= 1
    for labels, seeds in ([3], [70]), ([4], [7]):
        other = model.sample(labels=labels, seeds=seeds, **settings)
        assert (other.pixels[0].int() - alone.pixels[0].int()).abs().max() > 10
    assert np.asarray(alone.images()[0]).shape == (16, 16)


def test_sample_leaves_the_model_as_it_was(demo):
    model = jitflow.load(demo / "checkpoints" / "last.ckpt", device="cpu")
    before = {n: p.clone() for n, p in model.module.named_parameters()}
    settings = (model.module.cfg_scale, model.module.num_sampling_steps, model.module.sampling_method)
    shifted = model.sample([1], 0, steps=2, time_shift=0.5)
    assert shifted.settings["time_shift"] == 0.5 and model.module.time_shift == 1
    assert not torch.equal(shifted.pixels, model.sample([1], 0, steps=2).pixels)
    ema2 = model.sample([1], 0, ema=2, steps=2, solver="euler", guidance=4.0)
    raw = model.sample([1], 0, ema=0, steps=2, solver="euler", guidance=4.0)
    assert not torch.equal(ema2.pixels, raw.pixels)
    assert (model.module.cfg_scale, model.module.num_sampling_steps, model.module.sampling_method) == settings
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "unknown verb"),
        (["sample", "no/such.ckpt"], "does not exist"),
        (["sample", "CKPT", "--labels", "11"], "classes 0 to 9"),
        (["sample", "CKPT", "--labels", "x"], "0,3,7-9"),
        (["sample", "CKPT", "--steps", "0"], "at least 1"),
        (["sample", "CKPT", "--time_shift", "0"], "shift"),
        (["sample", "CKPT", "--solver", "hein"], "did you mean heun"),
        (["sample", "CKPT", "--interval", "0.9,0.1"], "low <= high"),
        (["sample", "CKPT", "--count", "0"], "--count"),
        (["sample", "CKPT", "--steps", "1.5"], "--steps must be int; got 1.5"),
        (["sample", "CKPT", "--guidance", "much"], "--guidance must be float; got much"),
        (["sample", "CKPT", "--stepz", "3"], "--stepz"),
        (
            ["train", "--config", "images/digits", "--trainer.max_epochs", "abc"],
            "--trainer.max_epochs must be int; got abc",
        ),
        (
            ["train", "--config", "images/digits", "--model.compile", "all"],
            "--model.compile must be bool or 'auto' or 'blocks' or",
        ),
        (
            ["text", "train", "--model.compile", "all"],
            "--model.compile must be bool or 'auto' or 'blocks' or 'network' or 'loss'; got all",
        ),
        (["train", "--config", "images/digits", "--trainer.nonsense", "3"], "nonsense"),
        (["models", "nothing*"], "no model matches"),
        (["demo", "sound"], "unknown demo"),
        (["train", "--config", "images/jit_b16"], "did you mean images/jit_b16_256"),
        (["train", "--config", "images/digits", "--model.model_name", "JiT-N4"], "did you mean JiT-N/4"),
        (["train", "--config", "images/digits", "--model.img_size", "18"], "not divisible by patch_size 4"),
        (["train", "--config", "images/jit_b16_256", "--data.data_path", "no/such", "--dry_run"], "no/such"),
        (["train", "--config", "images/digits", "--resume", "no/such"], "no checkpoint"),
        (["train", "--config", "images/digits", "--data.img_size", "20", "--run_dir", "TMP"], "images of 20x20"),
        (["train", "--config", "images/digits", "--data.batch_size", "2000", "--dry_run"], "lower batch_size"),
        (["train", "--config", "images/digits", "--model.num_classes", "7", "--run_dir", "TMP"], "10 classes"),
    ],
)
def test_each_mistake_is_one_line(capsys, demo, tmp_path, words, message):
    places = {"CKPT": str(demo / "checkpoints" / "last.ckpt"), "TMP": str(tmp_path / "run")}
    words = [places.get(word, word) for word in words]
    status, text = run(capsys, *words)
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    assert status == 1 and len(lines) == 1 and message in lines[0], text


def test_a_checkpoint_of_another_model_lists_the_names(demo, tmp_path):
    checkpoint = torch.load(demo / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.foreign.weight"] = checkpoint["state_dict"].pop("net.final_layer.linear.bias")
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match=r"net\.final_layer\.linear\.bias.*foreign"):
        jitflow.load(tmp_path / "odd.ckpt")


def test_every_recipe_builds_its_command_line():
    for name in list_recipes():
        recipe = read_recipe(name)
        assert {"model", "data", "trainer", "schedule", "checkpoint"} <= recipe.keys(), name


def test_recipes_are_found_by_name_and_by_path(tmp_path):
    assert find_recipe("images/digits").name == "digits.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("model: {}")
    assert find_recipe(own) == own


def test_train_trains_by_a_recipe_and_the_same_command_again_goes_on(tmp_path, capsys, caplog):
    words = ["train", "--config", "images/digits", "--trainer.max_epochs", "2", "--schedule.warmup_epochs", "1"]
    words += ["--trainer.limit_train_batches", "2", "--trainer.check_val_every_n_epoch", "1"]
    words += ["--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu", "--run_dir", tmp_path / "run"]
    status, text = run(capsys, *words)
    assert status == 0, text
    run_dir = tmp_path / "run"
    assert {"config.yaml", "environment.json", "checkpoints", "csv", "tensorboard"} <= {
        p.name for p in run_dir.iterdir()
    }
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["seed"] == 0 and environment["torch"] == torch.__version__
    module = jitflow.load(run_dir / "checkpoints" / "last.ckpt").module
    assert module.ema_params1 and module.num_classes == 10
    metrics = (run_dir / "csv" / "version_0" / "metrics.csv").read_text()
    assert "val/loss_ema" in metrics and "train/loss" in metrics

    status, text = run(capsys, *words)
    assert status == 0 and "is finished" in caplog.text
    words[words.index("--trainer.max_epochs") + 1] = "3"
    status, text = run(capsys, *words, "--resume", "auto")
    assert status == 0 and "resuming from" in caplog.text, text
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert (run_dir / "csv" / "version_0" / "metrics.csv").read_text() == metrics

    config = (run_dir / "config.yaml").read_text()
    status, text = run(capsys, *words, "--resume", "auto", "--model.model_name", "JiT-Ti/4")
    assert status == 1 and "model.model_name JiT-N/4 (now JiT-Ti/4)" in text
    assert (run_dir / "config.yaml").read_text() == config


def test_labels_and_intervals_are_read():
    assert parse_labels("0,3,7-9", 10) == [0, 3, 7, 8, 9]
    assert parse_labels("all", 3) == [0, 1, 2]
    assert parse_interval("0.1, 1") == (0.1, 1.0)


def test_a_dry_run_says_what_fits_into_memory(tmp_path, caplog):
    words = ["train", "--config", "images/digits", "--run_dir", str(tmp_path / "run"), "--dry_run"]
    assert cli.main([*words, "--data.batch_size", "32"]) == 0
    assert re.search(r"at the peak of a step of 32.* fit a batch of up to \d+", caplog.text)


def test_a_training_leaves_a_report_and_says_what_it_was_trained_on(tmp_path):
    run_dir = tmp_path / "run"
    words = ["train", "--config", "images/digits", "--run_dir", str(run_dir), "--trainer.max_steps", "60"]
    assert cli.main([*words, "--schedule.warmup_epochs", "1", "--data.batch_size", "16"]) == 0
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "train/loss" in page and "default-src 'none'" in page
    data = read_run_record(run_dir).data
    assert data["fingerprint"] and data["num_samples"] > 1000
    (metrics,) = run_dir.glob("csv/*/metrics.csv")
    names = metrics.read_text().splitlines()[0].split(",")
    watched = {"train/grad_norm", "train/weight_norm", "train/ema1_norm", "perf/images_per_sec", "loss_at/t0.2-0.4"}
    assert watched <= set(names)
