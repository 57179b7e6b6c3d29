"""The documents' import lines, from the root of a checkout in which nothing is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "line",
    [
        "from models.modelmodule import JiTLightningModule, create_jit_lightning_module",
        "from models import UserConditionedDiT, build_jit_model, load_pretrained_jit",
        "from datas.datamodule import JiTDataModule, create_jit_datamodule, center_crop_arr",
        "from callbacks import EMACallback",
    ],
)
def test_documented_import(line):
    # -S hides site-packages' .pth files, with them the editable install; the libraries come back by path.
    packages = [p for p in sys.path if "site-packages" in p]
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.path += {packages!r}"
    code = f"{paths}; {line}; import jitflow; print(jitflow.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().splitlines()[-1]) == ROOT / "jitflow" / "__init__.py"
