"""One-step post-training from a checkpoint to a checkpoint: the verb, resuming, two processes, refusals."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_runs import fit as train_module
from evaluation_runs import make_module
from forked_python import forked_python
from interruption import At, Interruption, power_cut
from tiny import assert_same_training

import jitflow
from jitflow.callbacks.held_out import SCORE
from jitflow.callbacks.history import TrainingHistory
from jitflow.checkpoint.find import resume_point
from jitflow.checkpoint.formats import read_state
from jitflow.cli import main
from jitflow.export.export import export
from jitflow.inspect.info import describe_path
from jitflow.io.files import load_checkpoint
from jitflow.posttraining.options import JudgeOptions, MethodOptions, RunOptions
from jitflow.run.describe import describe_run
from jitflow.run.fit import fit
from jitflow.run.onestep import BEST, one_step_recipe

ROOT = Path(__file__).parents[2]
NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}
METHOD = MethodOptions(
    "pixels:4", "digits", steps="1,2", updates=6, batch_size=20, micro_batch_size=8, learning_rate=1e-3, num_first=40
)
CPU = RunOptions(accelerator="cpu", devices="1")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained model."""
    path = tmp_path_factory.mktemp("base") / "base.ckpt"
    train_module(make_module(net_settings=NET)).save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
    """The folder of a post-training by the command."""
    folder = tmp_path_factory.mktemp("done") / "run"
    words = ["--extractors", "pixels:4", "--reference", "digits", "--steps", "1,2", "--updates", "4"]
    words += ["--batch_size", "20", "--num_first", "40", "--judge", "pixels:3", "--num_judged", "20"]
    words += ["--judge_every", "2", "--learning_rate", "1e-3", "--accelerator", "cpu", "--run_dir", str(folder)]
    assert main(["onestep", str(base), *words]) == 0
    return folder


def test_the_result_is_an_ordinary_checkpoint_of_one_step(base, done):
    model = jitflow.load(done, device="cpu")
    assert (model.module.num_sampling_steps, model.module.sampling_method, model.module.cfg_scale) == (1, "euler", 1)
    assert model.module.trained_on == ("pixels-1x4x4",)
    assert not [name for name in model.module.state_dict() if "frechet" in name]
    before = jitflow.load(base, device="cpu").module.state_dict()
    assert before.keys() == model.module.state_dict().keys()
    assert any(not torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    samples = model.sample([3, 4], seeds=0)
    assert samples.settings["steps"] == 1
    assert torch.equal(model.sample([4], seeds=1).pixels, samples.pixels[1:])
    again = model.sample([3, 4], seeds=0, steps=2)
    assert not torch.equal(again.pixels, samples.pixels)


def test_info_card_and_report_say_how_it_was_made(done, tmp_path):
    checkpoint = describe_run(done).best
    assert checkpoint is not None and checkpoint.name == BEST
    facts = describe_path(checkpoint).facts
    assert "pixels-1x4x4" in facts["note"]
    assert "1 or 2 network calls" in facts["made by"]
    export(checkpoint, tmp_path / "card", format="safetensors")
    card = (tmp_path / "card" / "README.md").read_text()
    assert "pixels-1x4x4" in card and "1 or 2 network calls" in card
    assert read_state(next((tmp_path / "card").glob("*.safetensors"))).trained_on == ("pixels-1x4x4",)
    assert describe_run(done).score[0] == f"lowest {SCORE}"


def train(base, folder, *callbacks, method=METHOD, judging=None, run=CPU):
    judging = judging or JudgeOptions("pixels:3", num_judged=20, judge_every=3)
    recipe = one_step_recipe(base, method, judging, run)
    recipe["checkpoint"]["save_last_every_n_steps"] = 2
    fit(recipe, folder, callbacks=[TrainingHistory(), *callbacks])
    return resume_point(folder)


def test_after_a_power_cut_it_ends_like_one_that_had_none(base, tmp_path):
    whole = train(base, tmp_path / "whole")
    with pytest.raises(Interruption):
        train(base, tmp_path / "cut", At(5, power_cut))
    assert load_checkpoint(resume_point(tmp_path / "cut"))["global_step"] == 4
    resumed = train(base, tmp_path / "cut")
    assert_same_training(resumed, whole)
    assert (tmp_path / "cut" / "checkpoints" / BEST).exists()


def test_micro_batches_do_not_change_the_result(base, tmp_path):
    small, large = (train(base, tmp_path / str(n), method=replace(METHOD, micro_batch_size=n)) for n in (8, 20))
    one, other = (load_checkpoint(path)["state_dict"] for path in (small, large))
    for name, value in one.items():
        assert (value.double() - other[name].double()).abs().max() <= 1e-5, name


def test_it_stops_when_the_judge_finds_it_worse(base, tmp_path):
    # Steps that large ruin any model.
    method = replace(METHOD, learning_rate=1.0, updates=40, steps="1")
    judging = JudgeOptions("pixels:3", num_judged=20, judge_every=2, patience=2)
    last = load_checkpoint(train(base, tmp_path, method=method, judging=judging))
    assert last["global_step"] < 40
    steps = last["global_step"]
    assert load_checkpoint(train(base, tmp_path, method=method, judging=judging))["global_step"] == steps
    best = load_checkpoint(tmp_path / "checkpoints" / BEST)
    assert best["global_step"] < steps


def test_two_processes_equal_one(base, tmp_path):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for name in ("PL_GLOBAL_SEED", "WORLD_SIZE", "LOCAL_RANK"):
            environment.pop(name, None)
        script = Path(__file__).with_name("onestep_ddp_run.py")
        words = [forked_python(), str(script), str(base), str(folder), str(processes)]
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
        assert ran.returncode == 0, ran.stderr[-3000:]
        results.append(torch.load(folder / "result.pt", weights_only=True))
    one, two = results
    assert one.keys() == two.keys()
    for name, value in one["weights"].items():
        assert (value.double() - two["weights"][name].double()).abs().max() <= 1e-5, name
    for place, moment in one["moments"].items():
        scale = moment.abs().max().clamp(min=1e-6)
        assert (moment - two["moments"][place]).abs().max() <= 1e-3 * scale, place


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--extractors", "pixels:4"], "--reference"),
        (["--reference", "digits", "--extractors", "pixls"], "pixels"),
        (["--reference", "no.npz", "--extractors", "pixels:4"], "no.npz"),
        (["--reference", "digits", "--extractors", "pixels:4", "--steps", "one"], "--steps"),
        (["--reference", "digits", "--extractors", "pixels:4", "--steps", "2,2"], "steps"),
        (["--reference", "digits", "--extractors", "pixels:4", "--decay", "1"], "decay"),
        (["--reference", "digits", "--extractors", "pixels:4", "--updates", "0"], "--updates"),
        (["--reference", "digits", "--extractors", "pixels:4", "--judge", "pixels:4"], "judge"),
        (["--reference", "digits", "--extractors", "pixels:4", "--precision", "bf16-true"], "precision"),
    ],
)
def test_bad_input_is_one_line_before_long_work(base, tmp_path, capsys, words, named):
    further = ["--accelerator", "cpu", "--run_dir", str(tmp_path / "run"), "--num_first", "10", "--batch_size", "10"]
    further += [] if "--updates" in words else ["--updates", "2"]
    assert main(["onestep", str(base), *words, *further]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and named in last
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.ckpt"))


def test_a_dry_run_trains_nothing(base, tmp_path, caplog):
    words = ["--reference", "digits", "--extractors", "pixels:4", "--dry_run", "--accelerator", "cpu"]
    assert main(["onestep", str(base), *words, "--run_dir", str(tmp_path / "run"), "--batch_size", "8"]) == 0
    assert not (tmp_path / "run").exists()


def test_the_recorded_recipe_resumes_it_too(done):
    assert main(["train", "--resume", str(done)]) == 0
