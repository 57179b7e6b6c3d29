"""Start a command of a commit: the spelling that it knows, the words of the process and its environment."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from pathlib import Path

from comparison.commands import Command


def choose_spelling(command: Command, tree: Path) -> str:
    """The first spelling whose options the commit knows."""
    for line in command.spellings[:-1]:
        words = shlex.split(line)
        verb = words[: next((i for i, word in enumerate(words) if word.startswith("--")), len(words))]
        options = [word for word in words if word.startswith("--") and "." not in word]
        if all(option in _help_text(tree, tuple(verb)).split() for option in options):
            return line
    return command.spellings[-1]


@functools.cache
def _help_text(tree: Path, verb: tuple[str, ...]) -> str:
    words = program_words(tree, [*verb, "--help"])
    shown = subprocess.run(words, env=process_environment(tree), capture_output=True, text=True)
    return shown.stdout.replace(",", " ").replace("[", " ") if shown.returncode == 0 else ""


def program_words(tree: Path, words: list[str]) -> list[str]:
    """Words for a new process."""
    first = ["-m", "jitflow"] if words[0] == "jitflow" else [str(tree / words[0])]
    return [sys.executable, *first, *words[1:]]


def process_environment(tree: Path) -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}
    left_out = ("PL_GLOBAL_SEED", "PYTHONHASHSEED")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **threads, **quiet, "PYTHONPATH": str(tree)}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
