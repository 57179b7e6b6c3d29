"""Files of a commit in a git worktree, which is removed afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comparison.programs import last_line

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Give the files of a commit, in a worktree that is removed afterwards; "." gives the files as they are."""
    if commit == ".":
        yield ROOT
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"no worktree of {commit} could be made: {last_line(made.stderr)}")
    try:
        yield folder.resolve()
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True)
