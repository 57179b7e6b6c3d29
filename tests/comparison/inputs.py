"""Pictures, a text and spectrograms that both commits train on."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from comparison.commands import simulate_command
from comparison.programs import choose_spelling, last_line, process_environment, program_words


def make_data(folder: Path, tree: Path, applications: Sequence[str]) -> None:
    """Write pictures, a text, and the spectrograms that a commit simulates.

    Args:
        folder: Where to.
        tree: Files of the commit that simulates.
        applications: Which of the applications need data.
    """
    folder.mkdir(parents=True)
    if "images" in applications:
        _make_images(folder / "images")
    if "text" in applications:
        (folder / "text.txt").write_text(make_text(), encoding="utf-8")
    if "microdoppler" in applications:
        words = program_words(tree, shlex.split(choose_spelling(simulate_command(), tree)))
        done = subprocess.run(words, cwd=folder, env=process_environment(tree), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"no spectrograms could be simulated: {last_line(done.stderr)}")


def _make_images(folder: Path) -> None:
    """Four classes of coloured noise, 24 x 20 pixels, ten to train on and three to validate on."""
    from PIL import Image

    for split, count in (("train", 10), ("val", 3)):
        for label in range(4):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            draws = np.random.default_rng([label, count])
            for number in range(count):
                pixels = draws.integers(0, 128, (20, 24, 3)) + 40 * label
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place / f"{number}.png")


def make_text() -> str:
    """Made-up English: enough for a held-out part (256 tokens of 5,120), few enough for epochs that end in 20 steps."""
    draws = np.random.default_rng(0)
    nouns = ("radar", "colour", "token", "image", "step", "user", "noise", "word")
    verbs = ("shows", "follows", "names", "hides", "moves", "draws")
    lines = [
        f"The {nouns[a]} {verbs[b]} the {nouns[c]} number {d}."
        for a, b, c, d in draws.integers(0, [8, 6, 8, 100], (170, 4)).tolist()
    ]
    return "\n".join(lines) + "\n"
