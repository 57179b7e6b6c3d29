"""Losses and norms of weights of six tiny trainings against those of commit 7ea7bf0; see tests/compare_commits.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_trainings_give_the_golden_losses_and_weights():
    """To 1e-5 relative, on the documented paths and by recipes."""
    words = [sys.executable, str(TESTS / "compare_commits.py"), "."]
    words += ["--against", str(TESTS / "data" / "golden_run.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
