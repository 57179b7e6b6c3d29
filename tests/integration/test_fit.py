"""`fit` by itself: a recipe in, a run out, without the command line's library."""

import shutil
import subprocess
from pathlib import Path

import pytest
from forked_python import forked_python

from jitflow.cli import main
from jitflow.errors import ConfigError, DataError
from jitflow.run.describe import describe_run
from jitflow.run.fit import fit
from jitflow.run.folder import read_run_record
from jitflow.run.recipe import override, read_recipe
from jitflow.run.start import recipe_to_resume

ROOT = Path(__file__).parents[2]
SHORT = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 2, "trainer.accelerator": "cpu"}
_WITHOUT_COMMAND_LINE = """
import sys

for name in ("jsonargparse", "docstring_parser", "typeshed_client"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])

from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe

recipe = override(read_recipe("images/digits"), {"trainer.max_steps": 2, "trainer.accelerator": "cpu"})
run = fit(recipe, "run")
assert (run.state, run.steps, run.application) == ("finished", 2, "images"), run
assert fit(recipe, "run").steps == 2
"""


def test_a_recipe_is_trained_without_the_library_of_the_command_line(tmp_path):
    command = [forked_python(), "-c", _WITHOUT_COMMAND_LINE, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_restart_that_is_refused_late_keeps_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = override(read_recipe("images/digits"), SHORT)
    fit(recipe, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    # Only the loader finds that no batch is full, after everything else was in order.
    with pytest.raises(DataError, match="batch_size"):
        fit(override(recipe, {"data.batch_size": 5000}), "run", restart=True)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    fit(override(recipe, {"model.learning_rate": 2e-3}), "run", restart=True)
    assert read_run_record("run").recipe["model"]["init_args"]["learning_rate"] == 2e-3
    assert not Path("run", ".before-restart").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one epoch."""
    return fit(override(read_recipe("images/digits"), SHORT), tmp_path_factory.mktemp("runs") / "first").folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainer.devices": 0}, r"trainer\.devices .*at least 1; got 0"),
        ({"trainer.devices": "0"}, r"trainer\.devices .*at least 1; got '0'"),
        ({"trainer.num_nodes": 0}, r"trainer\.num_nodes must be at least 1"),
        ({"trainer.accumulate_grad_batches": 0}, r"accumulate_grad_batches .*at least 1"),
        ({"trainer.val_check_interval": 3}, r"val_check_interval 3 .* 2 batches"),
        ({"seed_everything": -1}, "seed_everything: -1"),
        ({"checkpoint.dirpath": "elsewhere"}, r"checkpoint\.dirpath .*got elsewhere"),
    ],
)
def test_what_cannot_work_is_named_before_a_folder_is_made(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        fit(override(read_recipe("images/digits"), {**SHORT, **settings}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_may_count_batches_across_epochs(tmp_path):
    across = {**SHORT, "trainer.val_check_interval": 3, "trainer.check_val_every_n_epoch": None}
    assert fit(override(read_recipe("images/digits"), across), tmp_path / "run").steps == 2


def test_weights_to_begin_with_are_part_of_what_a_run_is(tmp_path, trained):
    recipe = override(read_recipe("images/digits"), {**SHORT, "init_from": str(trained)})
    for resume in ("auto", trained):
        with pytest.raises(ConfigError, match="init_from"):
            fit(recipe, trained, resume)
    run_dir = tmp_path / "run"
    fit(recipe, run_dir)
    # The folder's own command, which takes the recorded recipe, and the same command again.
    longer = {"trainer.max_epochs": 2}
    assert fit(override(recipe_to_resume(run_dir), longer), run_dir, run_dir).epochs == 2
    assert fit(override(recipe, longer), run_dir).epochs == 2


def test_resume_auto_takes_the_recipe_of_the_folder_that_is_named(tmp_path, trained):
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    assert main(["train", "--resume", "auto", f"--run_dir={run_dir}", "--trainer.max_epochs", "2"]) == 0
    assert describe_run(run_dir).epochs == 2


def test_a_link_that_leads_nowhere_leaves_a_run_what_it_is(tmp_path, trained):
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    (run_dir / "checkpoints" / "best.ckpt").symlink_to("nowhere")
    assert describe_run(run_dir).state == "finished"
