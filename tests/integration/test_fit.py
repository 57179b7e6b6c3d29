"""`fit` by itself: a recipe in, a run out, without the command line's library."""

import subprocess
import sys
from pathlib import Path

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
