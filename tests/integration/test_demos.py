"""The demos with hardly any steps: what all have in common, and the files and numbers of each."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal

import lightning.pytorch as pl
import pytest
import torch
import yaml
from PIL import Image

from jitflow import cli
from jitflow.applications import list_applications
from jitflow.apps.text.colour import ColourCodec
from jitflow.apps.text.tokenizer import ByteTokenizer
from jitflow.errors import ConfigError
from jitflow.io.files import load_checkpoint, read_json
from jitflow.run.describe import describe_run
from jitflow.run.folder import RUN_NAME, read_run_record
from jitflow.run.recipe import override, read_recipe
from jitflow.run.start import clear_run
from jitflow.verbs import demo

NAMES = ("images", "text", "microdoppler")
# The radar demo simulates walks and trains three classifiers, which takes as long as the two others together.
DEMOS = ("images", "text", pytest.param("microdoppler", marks=pytest.mark.slow))
# Of the run that the suite shares.
SEED = 0


class Interrupt(pl.Callback):
    """Ctrl-C after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, quick_demo, forked_workers):
    """Folder and metrics of each demo; made when they are asked for."""
    copied = shutil.copytree(quick_demo, tmp_path_factory.mktemp("demo") / "images", symlinks=True)
    made = {"images": (copied, read_json(copied / "metrics.json"))}

    def run(name):
        if name not in made:
            out = tmp_path_factory.mktemp("demo") / name
            made[name] = out, demo.run_demo(name, out, SEED, quick=True)
        return made[name]

    return run


@pytest.fixture
def copy(runs, tmp_path):
    """Copy a demo's folder."""
    return lambda name: (shutil.copytree(runs(name)[0], tmp_path / name, symlinks=True), runs(name)[1])


def content(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def no_training(*args, **kwargs):
    raise AssertionError("nothing was left to train")


def test_every_application_has_a_demo_whose_recipe_is_complete():
    assert tuple(list_applications()) == NAMES
    for name in (*NAMES, "onestep"):
        plan = demo.plan_demo(name)
        assert plan.recipe["trainer"]["accelerator"] == "cpu" and plan.recipe["trainer"]["devices"] == 1
        assert plan.record["settings"] == plan.settings


@pytest.mark.slow
def test_the_demo_of_one_step_starts_from_the_images(runs, copy, tmp_path, capsys):
    copy("images")
    metrics = demo.run_demo("onestep", tmp_path / "onestep", SEED, quick=True)
    assert (metrics["base"]["steps"], metrics["one_step"]["steps"]) == (30, 1)
    assert metrics["trained_on"] == ["digits-cnn", "pixels-1x8x8"] and metrics["judged_samples"] == 100
    for name in ("base", "one_step"):
        assert {"digits", "pixels", "digits-rotation"} <= metrics[name].keys()
        assert 0 <= metrics[name]["digits-rotation"]["recall"] <= 1
    with Image.open(tmp_path / "onestep" / "samples.png") as picture:
        assert picture.height > picture.width
    shown = capsys.readouterr().out
    assert "digits *" in shown and "digits-rotation *" not in shown
    run = describe_run(tmp_path / "onestep")
    assert run.state == "finished" and run.best is not None


@pytest.mark.parametrize("name", DEMOS)
def test_a_finished_demo_only_reports(runs, name, monkeypatch, capsys):
    out, metrics = runs(name)
    before = content(out)
    monkeypatch.setattr(demo, "fit", no_training)
    assert demo.run_demo(name, out, SEED, quick=True) == metrics == read_json(out / "metrics.json")
    assert content(out) == before
    captured = capsys.readouterr()
    assert "--restart" in captured.err and str(metrics["train_steps"]) in captured.out
    record = read_run_record(out)
    assert record.state == "finished" and record.application == name and record.score == describe_run(out).score
    assert describe_run(out).state == "finished"


@pytest.mark.parametrize("name", DEMOS)
def test_other_settings_in_the_same_folder_are_an_error(runs, name):
    out, _ = runs(name)
    before = content(out)
    with pytest.raises(ConfigError, match=rf"seed_everything {SEED} \(now 4\).*--restart"):
        demo.run_demo(name, out, 4, quick=True)
    with pytest.raises(ConfigError, match=r"schedule|model"):
        demo.run_demo(name, out, SEED)
    assert content(out) == before


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_that_is_interrupted_and_moved_goes_on_like_one_that_was_not(copy, name, tmp_path, monkeypatch):
    out, _ = copy(name)
    plan = demo.plan_demo(name, out, SEED, quick=True)
    training = plan.demo.training
    whole = load_checkpoint(describe_run(out).checkpoint)
    weights = {key: value.clone() for key, value in whole["state_dict"].items()}
    # What comes before the training is found again; what comes after it has tests of its own.
    clear_run(out / training)
    (out / "metrics.json").unlink()
    interruptions = [KeyboardInterrupt]

    def look(state):
        if interruptions:
            raise interruptions.pop()
        state.metrics.update(train_steps=len(state.losses))

    shortened = dataclasses.replace(plan.demo, after={"look": look}, describe=lambda out, metrics: None)
    fit = demo.fit
    monkeypatch.setattr(demo, "find_demo", lambda name: shortened)
    monkeypatch.setattr(
        demo, "fit", lambda *args, callbacks, **more: fit(*args, callbacks=[*callbacks, Interrupt(2)], **more)
    )
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        demo.run_demo(name, out, SEED, quick=True)
    run = describe_run(out)
    assert (run.state, run.steps) == ("unfinished", 2)
    assert run.command == run.continuation == f"jitflow demo {name} --out {out}"

    moved = out.rename(tmp_path / "moved")
    monkeypatch.setattr(demo, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(name, moved, SEED, quick=True)
    assert read_run_record(moved).state == "interrupted"
    path = describe_run(moved).checkpoint
    saved = path.read_bytes()
    assert describe_run(moved / training).continuation == f"jitflow demo {name} --out {moved}"
    metrics = demo.run_demo(name, moved, SEED, quick=True)
    assert metrics["train_steps"] == whole["global_step"]
    assert path.read_bytes() == saved
    resumed = load_checkpoint(path)
    assert resumed["callbacks"]["TrainingHistory"]["losses"] == whole["callbacks"]["TrainingHistory"]["losses"]
    assert resumed["state_dict"].keys() == weights.keys()
    assert all(torch.equal(resumed["state_dict"][key], value) for key, value in weights.items())
    assert describe_run(moved).state == "finished"


@pytest.mark.parametrize("name", ["images", "text"])
def test_what_follows_the_training_is_done_again_without_it(copy, name):
    out, metrics = copy(name)
    trained = describe_run(out).checkpoint.read_bytes()
    for path in (out / "metrics.json", out / "loss.png"):
        path.unlink()
    shutil.rmtree(out / "evaluation", ignore_errors=True)
    again = demo.run_demo(name, out, SEED, quick=True)
    same = {key for key in metrics if "sec" not in key and key != "settings"}
    assert len(same) > 5 and {key: again[key] for key in same} == {key: metrics[key] for key in same}
    assert describe_run(out).checkpoint.read_bytes() == trained and (out / "loss.png").is_file()


@pytest.mark.parametrize("name", DEMOS)
def test_restart_removes_what_the_demo_wrote_and_nothing_else(copy, name, monkeypatch):
    out, _ = copy(name)
    (out / "mine.txt").write_text("kept")
    monkeypatch.setattr(demo, "find_demo", lambda name, find=demo.find_demo: dataclasses.replace(find(name), before={}))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(name, out, 5, restart=True, quick=True)
    # The classifier of digits is no part of a run.
    left = {p.name for p in out.iterdir()} - {"digits_judge.safetensors"}
    # The training's record stands for the whole where they share a folder, and it did not begin.
    assert left == ({"mine.txt", RUN_NAME} if demo.plan_demo(name).demo.training else {"mine.txt"})


@pytest.mark.parametrize("name", DEMOS)
def test_a_dry_run_says_what_would_be_done_and_does_nothing(name, runs, tmp_path, capsys):
    assert cli.main(["demo", name, "--out", str(tmp_path / "out"), "--dry_run"]) == 0
    assert "would start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    before = content(runs(name)[0])
    assert cli.main(["demo", name, "--out", str(runs(name)[0]), "--dry_run", "--restart"]) == 0
    assert "would restart" in capsys.readouterr().err and content(runs(name)[0]) == before


@pytest.mark.parametrize("name", DEMOS)
def test_a_folder_of_before_there_was_run_json_reports(copy, name, monkeypatch):
    out, metrics = copy(name)
    plan = demo.plan_demo(name, out, SEED, quick=True)
    for path in out.rglob(RUN_NAME):
        path.unlink()
    if plan.demo.training:
        (out / "settings.json").write_text(json.dumps({**plan.settings, "seed": SEED}))
    else:
        recipe = override(read_recipe(plan.demo.recipe), {"seed_everything": SEED})
        recipe["model"]["class_path"] = "jitflow.training.jit_module.JiTLightningModule"
        (out / "config.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(demo, "fit", no_training)
    assert demo.run_demo(name, out, SEED, quick=True) == metrics
    assert describe_run(out).state == "finished"
    with pytest.raises(ConfigError, match=rf"seed {SEED} \(now 4\).*--restart"):
        demo.run_demo(name, out, 4, quick=True)
    (out / "metrics.json").unlink()
    with pytest.raises(ConfigError, match=r"unfinished.*--restart"):
        demo.run_demo(name, out, SEED, quick=True)


def test_a_training_of_another_command_is_no_demo(tmp_path):
    plan = demo.plan_demo("text", tmp_path, SEED, quick=True)
    demo.fit(plan.recipe, tmp_path / plan.demo.training)
    with pytest.raises(ConfigError, match=r"holds no losses.*--restart"):
        demo.run_demo("text", tmp_path, SEED, quick=True)
    assert read_run_record(tmp_path).state == "failed"


def test_the_digits_leave_what_they_promise(runs):
    out, metrics = runs("images")
    for name in ("samples.png", "trajectory.png", "loss.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 50
    assert {"class_agreement", "train_seconds", "images_per_sec"} <= metrics.keys()
    assert metrics["svm_accuracy_on_held_out_scans"] > 0.95
    assert metrics["train_steps"] == 2 * 22
    report = json.loads((out / "evaluation" / "report.json").read_text())
    spaces = {name.split("/")[1] for name in report["metrics"]}
    assert spaces == {"digits", "digits-rotation", "pixels", "fdr3", "thumbnails"}
    rows = ("guided,balanced", "unguided,balanced")
    assert list(metrics["frechet_ratios"]) == [f"{row}/fdr3/arithmetic" for row in rows]
    # Two epochs teach nothing: the samples are far worse than held-out scans.
    assert min(metrics["frechet_ratios"].values()) > 3
    assert (out / "checkpoints" / "last.ckpt").resolve() == (out / "checkpoints" / "checkpoint-last.pth").resolve()


def test_the_metrics_of_text_carry_the_promised_names(runs):
    _, metrics = runs("text")
    for name in ("token_accuracy", "unigram_baseline", "context_free_baseline"):
        assert {"0.1", "0.2", "0.3", "0.4", "0.5"} <= set(metrics[name])
        assert all(0 <= share <= 1 for share in metrics[name].values())
    assert 0 <= metrics["text_recovery_accuracy"] <= 1
    assert set(metrics["ngram_perplexity"]) == {"samples", "held_out", "shuffled"}
    assert metrics["ngram_perplexity"]["held_out"] < metrics["ngram_perplexity"]["shuffled"]
    assert metrics["train_steps"] == 4
    assert metrics["settings"]["seed"] == SEED
    assert set(metrics["seconds"]) >= {"train", "evaluate", "prompt"}


def test_the_files_of_text_are_what_they_are_called(runs):
    out, metrics = runs("text")
    for name in ("accuracy.png", "loss.png", "text.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 100
    written = (out / "samples.txt").read_text()
    assert written.startswith("--- prompt 'The'\nThe")
    assert written.count("--- seed ") == 2
    assert all(text.startswith("The") for text in metrics["continuations"])
    assert (out / "training" / "checkpoint-last.pth").is_file()


def test_the_first_picture_is_the_text_beside_it(runs):
    out, _ = runs("text")
    with Image.open(out / "text.png") as image:
        side = (image.height - 24) // 16
        pixels = [
            [image.getpixel((12 + x * side + side // 2, 12 + y * side + side // 2)) for x in range(16)]
            for y in range(16)
        ]
    x = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    ids = ColourCodec(ByteTokenizer.vocab_size, "codebook", 16).tokens(x)[0].tolist()
    assert f"--- left: a held-out text\n{ByteTokenizer().decode(ids)}\n" in (out / "text.txt").read_text()


def test_the_metrics_of_walkers_carry_the_promised_names(runs):
    _, metrics = runs("microdoppler")
    shares = {
        "identity_accuracy",
        "identity_accuracy_real",
        "tstr_accuracy",
        "trtr_accuracy",
        "step_frequency_within_5_percent",
        "step_frequency_within_5_percent_real",
    }
    assert metrics.keys() >= shares
    assert all(0 <= metrics[name] <= 1 for name in shares)
    assert metrics["codec_psnr_db"] > 20
    # Real walks are told apart even by a classifier of few pictures.
    assert metrics["identity_accuracy_real"] > 0.5 and metrics["step_frequency_within_5_percent_real"] > 0.5
    assert metrics["num_generated"] == 10
    assert set(metrics["seconds"]) == {"simulate", "extract", "train", "sample", "evaluate"}


def test_the_walkers_leave_pictures_to_look_at(runs):
    out, _ = runs("microdoppler")
    for name in ("generated_images/micro_doppler_grid.png", "evaluation/real_and_generated.png"):
        assert (out / name).stat().st_size > 1000
    assert (out / "generated_images" / "micro_doppler_user05_002.png").is_file()
    assert (out / "trained_models" / "checkpoints" / "best.ckpt").is_file()


def test_the_real_walkers_are_enough_and_walk_apart():
    settings = demo.plan_demo("microdoppler").settings
    assert settings["num_users"] * settings["generated_per_user"] >= 200
    assert settings["min_cadence_gap"] >= 0.1
