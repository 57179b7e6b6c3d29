"""Runs that commit 7ea7bf0 wrote, one of each kind, still load, sample, resume and describe themselves.

They lie in tests/data/checkpoints_7ea7bf0; tests/data/make_checkpoints.py says how they were made.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from former_words import in_present_words
from PIL import Image

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"

_spec = importlib.util.spec_from_file_location("make_checkpoints", DATA / "make_checkpoints.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

RUNS = tuple(made.TRAININGS)
_IN_THE_FOLDER_ITSELF = ("images_documented", "text_documented")
LAST = {name: f"{name}/{'' if name in _IN_THE_FOLDER_ITSELF else 'checkpoints/'}checkpoint-last.pth" for name in RUNS}
# Epochs trained, optimiser steps of each, application, network.
FACTS = {
    "images_documented": (10, 3, "images", "JiT-N/4"),
    "images_recipe": (10, 3, "images", "JiT-N/4"),
    "text_documented": (1, 5, "text", "JiT-N/4"),
    "text_recipe": (1, 5, "text", "JiT-N/4"),
    "microdoppler_documented": (5, 2, "microdoppler", "LightningDiT-N/4"),
    "microdoppler_recipe": (5, 2, "microdoppler", "LightningDiT-N/4"),
}


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A copy of the runs with their data, as the working directory."""
    folder = tmp_path / "runs"
    shutil.copytree(made.TARGET, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def run(line: str) -> None:
    """Run a command line as a shell would, in this process."""
    program, *words = in_present_words(shlex.split(line))
    before = sys.argv
    sys.argv = [program, *words]
    try:
        if program == "jitflow":
            runpy.run_module("jitflow", run_name="__main__")
        else:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, line
    finally:
        sys.argv = before


def steps_done(checkpoint: str) -> int:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", RUNS)
def test_samples_are_those_of_before(runs, name):
    run(made.sample_command(name, "drawn"))
    expected = sorted((runs / "expected" / name).glob("*.png"))
    assert len(expected) == 2
    for path in expected:
        before = pixels(path)
        assert before.std() > 5, "a plain picture could be anybody's"
        differing = (np.abs(pixels(runs / "drawn" / path.name) - before) > 1).mean()
        # A token of a text is one codeword or another: rounding may turn one of sixteen, and no more.
        assert differing <= (1 / 16 if name.startswith("text") else 0), path.name


def test_documented_loading_gives_weights_averages_and_settings(runs):
    from models.modelmodule import JiTLightningModule

    for name in ("images_documented", "images_recipe"):
        model = JiTLightningModule.load_from_checkpoint(LAST[name])
        saved = torch.load(LAST[name], map_location="cpu", weights_only=True)
        for section, found in (
            ("state_dict", model.state_dict()),
            ("model_ema1", model.ema_params1),
            ("model_ema2", model.ema_params2),
        ):
            assert all(torch.equal(found[key], value) for key, value in saved[section].items()), section
        assert model.hparams["net_settings"] == json.loads(made.JIT_NET)
        assert (model.hparams["learning_rate"], model.hparams["img_size"]) == (2e-2, 8)


def test_load_in_python_gives_the_samples_of_before(runs):
    import jitflow

    model = jitflow.load("images_recipe/checkpoints/last.ckpt", device="cpu")
    samples = model.sample(labels=[3, 7], seeds=[5, 6], guidance=2.0, steps=4)
    for image, path in zip(samples.images(), sorted((runs / "expected" / "images_recipe").iterdir()), strict=True):
        assert np.abs(np.asarray(image).astype(int) - pixels(path)).max() <= 1


def _longer(name: str, option: str) -> str:
    """The command that made a run, for one epoch more."""
    epochs = FACTS[name][0]
    line = made.TRAININGS[name].replace(f"{option} {epochs}", f"{option} {epochs + 1}")
    assert line != made.TRAININGS[name]
    return line


def _longer_documented_images() -> None:
    """The documented Python with Lightning's own way to resume."""
    script = made.IMAGES_DOCUMENTED.replace("max_epochs=10", "max_epochs=11")
    script = script.replace("datamodule=data)", f"datamodule=data, ckpt_path={LAST['images_documented']!r})")
    exec(compile(script, "images_documented.py", "exec"), {"__name__": "__main__"})


RESUMING = {
    "images_recipe": [
        f"{_longer('images_recipe', '--trainer.max_epochs')} --resume auto",
        "jitflow train --config images_recipe/config.yaml --run_dir images_recipe --resume auto "
        "--trainer.max_epochs 11",
    ],
    "text_documented": [
        "jitflow text train --resume text_documented --epochs 2 --trainer.accelerator cpu",
        f"{_longer('text_documented', '--epochs')} --resume text_documented/checkpoint-last.pth",
    ],
    "text_recipe": [f"{_longer('text_recipe', '--trainer.max_epochs')} --resume auto"],
    "microdoppler_documented": [_longer("microdoppler_documented", "--max_epochs")],
    "microdoppler_recipe": [f"{_longer('microdoppler_recipe', '--trainer.max_epochs')} --resume auto"],
}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param("images_documented", None, id="images_documented"),
        *(pytest.param(name, line, id=f"{name}-{i}") for name in RESUMING for i, line in enumerate(RESUMING[name])),
        pytest.param(
            "text_recipe",
            "jitflow text train --resume text_recipe --epochs 2 --trainer.accelerator cpu",
            id="text_recipe-text-train",
        ),
    ],
)
def test_training_goes_on_for_an_epoch(runs, name, line):
    epochs, steps_of_epoch, *_ = FACTS[name]
    assert steps_done(LAST[name]) == epochs * steps_of_epoch
    before = torch.load(LAST[name], map_location="cpu", weights_only=True)
    if line is None:
        _longer_documented_images()
    else:
        run(line)
    after = torch.load(LAST[name], map_location="cpu", weights_only=True)
    assert after["global_step"] == (epochs + 1) * steps_of_epoch
    for section in ("state_dict", "model_ema1", "model_ema2"):
        assert after[section].keys() == before[section].keys()
    assert any(not torch.equal(value, before["model_ema1"][key]) for key, value in after["model_ema1"].items())


@pytest.mark.parametrize("name", RUNS)
def test_info_says_what_a_run_and_its_checkpoint_are(runs, name, capsys):
    epochs, steps_of_epoch, application, network = FACTS[name]
    run(f"jitflow info {name}")
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.split()[:1] == ["application"])
    assert network in shown and application in line.lower().replace("-", ""), shown
    assert f"{epochs * steps_of_epoch} steps" in shown, shown
    run(f"jitflow info {LAST[name]}")
    assert network in capsys.readouterr().out


def test_runs_lists_every_run(runs, capsys):
    run("jitflow runs .")
    shown = capsys.readouterr().out
    for name, (epochs, steps_of_epoch, *_) in FACTS.items():
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{name} "))
        # Nothing in its folder says how long the documented Python was to train.
        state = "unfinished" if name == "images_documented" else "finished"
        assert f" {state} " in line and f"{epochs * steps_of_epoch} steps" in line, line


@pytest.mark.parametrize("name", ["images_recipe", "text_documented", "microdoppler_documented"])
def test_report_of_a_run_has_its_curve(runs, name):
    run(f"jitflow report {name}")
    assert "training loss" in (runs / name / "report.html").read_text(encoding="utf-8").lower()


def test_no_path_of_a_machine_is_in_the_files():
    places = [f"/{name}/".encode() for name in ("home", "root", "tmp", "Users")]
    for path in made.TARGET.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [place for place in places if place in content], path
