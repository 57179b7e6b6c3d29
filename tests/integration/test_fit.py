"""`fit` by itself: a recipe in, a run out, without the command line's library."""

import subprocess
import sys
from pathlib import Path

import pytest

from jitflow.errors import DataError
from jitflow.run.fit import fit
from jitflow.run.folder import read_run_record
from jitflow.run.recipe import override, read_recipe

ROOT = Path(__file__).parents[2]
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
    command = [sys.executable, "-c", _WITHOUT_COMMAND_LINE, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_restart_that_is_refused_late_keeps_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = {"trainer.max_epochs": 1, "trainer.limit_train_batches": 2, "trainer.accelerator": "cpu"}
    recipe = override(read_recipe("images/digits"), short)
    fit(recipe, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    # Only the loader finds that no batch is full, after everything else was in order.
    with pytest.raises(DataError, match="batch_size"):
        fit(override(recipe, {"data.batch_size": 5000}), "run", restart=True)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    fit(override(recipe, {"model.learning_rate": 2e-3}), "run", restart=True)
    assert read_run_record("run").recipe["model"]["init_args"]["learning_rate"] == 2e-3
    assert not Path("run", ".before-restart").exists()
