"""``example_usage.py``, run as a user of an uninstalled checkout would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from forked_python import forked_python

ROOT = Path(__file__).parents[2]
NAMES = [
    "ema",
    "checkpoint",
    "fid",
    "schedule",
    "metrics",
    "defaults",
    "custom",
    "from-args",
    "full",
    "ema-access",
    "custom-evaluation",
]


def run(*words, cwd, packages=True):
    # -S leaves out site-packages and with it an editable install; the libraries come back by path.
    path = os.pathsep.join(p for p in sys.path if "site-packages" in p) if packages else ""
    environment = {**os.environ, "PYTHONPATH": path}
    command = [forked_python() if packages else sys.executable, "-S", str(ROOT / "example_usage.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_every_pattern_runs(tmp_path):
    done = run("--out", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(said) == NAMES
    # What the numbers must be, whatever the machine.
    far, near = map(float, re.findall(r"(\d\.\d+) \(decay", said["ema"]))
    assert far > near > 0
    files = "checkpoint-1.pth, checkpoint-last.pth, checkpoint-prev.pth, last.ckpt, manifest.json"
    assert f"saved {files}; sampled (2, 1, 16, 16)" in said["checkpoint"]
    assert "rates 0.0e+00 at the start, 1.0e-03 after the warm-up" in said["schedule"]
    assert done.stderr.count("[4/8]") == 1
    assert "8 steps" in said["defaults"]
    assert said["from-args"].startswith("saved checkpoint-last.pth, last.ckpt")
    assert "16 steps in bf16-mixed" in said["full"]
    assert "the model now holds EMA 1: True" in said["ema-access"]
    assert "eval/fid" in said["custom-evaluation"]
    assert "eval/brightness" in said["custom-evaluation"]
    assert (tmp_path / "kept" / "full" / "checkpoint-last.pth").is_file()
    assert not list(tmp_path.glob("lightning_logs"))


def test_without_the_libraries_one_line_says_what_to_do(tmp_path):
    done = run("--help", cwd=tmp_path, packages=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make setup" in done.stderr
