"""The studio's server without a browser: users who send anything, break off, and leave; a short form of the soak."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio")
SOAK = Path(__file__).parents[1] / "soak" / "studio_soak.py"


def test_users_of_any_kind_are_answered_in_words(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, str(SOAK), "--users", "4", "--seconds", "5", "--log", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = log.read_text()
    assert "0 answers that should not be" in said and "exit status 143, 0 temporary folders left" in said
    for how in ("left", "stopped"):
        (line,) = [line for line in said.splitlines() if f"a client that {how}" in line]
        # A network call of this model takes milliseconds.
        assert float(line.partition("place: ")[2].split()[0]) < 1.5
