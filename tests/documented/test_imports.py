"""The documents' import lines, each by itself, from the root of a checkout in which nothing is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from forked_python import forked_python

ROOT = Path(__file__).parents[2]
LINES = [
    "from models.modelmodule import JiTLightningModule, create_jit_lightning_module",
    "from models import UserConditionedDiT, build_jit_model, load_pretrained_jit",
    "from datas.datamodule import JiTDataModule, create_jit_datamodule, center_crop_arr",
    "from callbacks import EMACallback",
]
# The large libraries are imported once; then each line has a process in which nothing of this library is imported yet.
_PROGRAM = """
import json, os, sys, traceback
sys.path[:0] = [{root!r}]
sys.path += {packages!r}
import lightning.pytorch, torch
assert not any(name.partition(".")[0] in ("jitflow", "models", "datas", "callbacks") for name in sys.modules)
for line in {lines!r}:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            exec(line)
            import jitflow
            print(json.dumps([line, jitflow.__file__]))
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def imported():
    """Where the library was found after each line that worked, and what the others printed."""
    # -S hides site-packages' .pth files, with them the editable install; the libraries come back by path.
    packages = [p for p in sys.path if "site-packages" in p]
    code = _PROGRAM.format(root=str(ROOT), packages=packages, lines=LINES)
    done = subprocess.run([forked_python(), "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return dict(json.loads(line) for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize("line", LINES)
def test_documented_import(imported, line):
    found, errors = imported
    assert line in found, errors
    assert Path(found[line]) == ROOT / "jitflow" / "__init__.py"
