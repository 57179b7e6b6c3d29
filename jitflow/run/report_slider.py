"""Samples over a training in a run's report: a slider that needs no script."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jitflow.callbacks.training_pictures import FOLDER_NAME
from jitflow.errors import JitflowError
from jitflow.io.files import read_json
from jitflow.run.report_figures import figure_of_file

_BY_EPOCH = re.compile(r"samples_epoch(\d+)\.png")
_BY_STEP = re.compile(r"step(\d+)\.json")
_MOST_FRAMES = 24
_MOST_TEXT_CHARS = 1500
# Many images are in one page.
_SMALL = {"max_width_px": 900, "max_png_bytes": 100_000}
STYLE = """
.slider { display: flex; flex-wrap: wrap; margin-bottom: 1.2rem; }
.slider > input { appearance: none; flex: 1; height: 1.5rem; margin: 0; cursor: pointer;
  background: linear-gradient(var(--line), var(--line)) center / 100% 4px no-repeat; }
.slider > input:checked { background: radial-gradient(circle, var(--accent) .45rem, transparent .5rem),
  linear-gradient(var(--line), var(--line)) center / 100% 4px no-repeat; }
.slider > input:focus-visible { outline: 2px solid var(--accent); }
.frames { flex: 0 0 100%; margin-top: .6rem; }
.frames > div { display: none; } .frames > div:only-child { display: block; }
.frames pre { margin-top: .6rem; }
"""


def training_pictures(folder: Path, training: Path) -> str:
    """Return the markup of the samples that a training drew, with a slider over its steps; empty if there are none.

    Args:
        folder: The run's folder, searched for grids by epoch (:class:`~jitflow.callbacks.SampleGridCallback`).
        training: Folder of its training, with pictures by step
            (:class:`~jitflow.callbacks.training_pictures.TrainingPictures`).
    """
    by_step = {int(m[1]): p for p in (training / FOLDER_NAME).glob("*.json") if (m := _BY_STEP.fullmatch(p.name))}
    by_epoch = {int(m[1]): p for p in folder.rglob("samples_epoch*.png") if (m := _BY_EPOCH.fullmatch(p.name))}
    return _slider("steps", [_frame_of_step(step, by_step[step]) for step in _spread(by_step)]) + _slider(
        "epochs", [figure_of_file(by_epoch[n], f"after {n} epochs", **_SMALL) for n in _spread(by_epoch)]
    )


def _spread(found: dict[int, Path]) -> list[int]:
    """Return the numbers in order; of many, a selection that is evenly spread and has both ends."""
    numbers = sorted(found)
    if len(numbers) <= _MOST_FRAMES:
        return numbers
    return [numbers[i] for i in np.linspace(0, len(numbers) - 1, _MOST_FRAMES).round().astype(int)]


def _frame_of_step(step: int, record: Path) -> str:
    """Return a picture with the texts of its record."""
    image = figure_of_file(record.with_suffix(".png"), f"after {step} steps", **_SMALL)
    try:
        content = read_json(record)
    except (JitflowError, OSError) as error:
        return f"{image}<p>{html.escape(str(error))}</p>"
    found = [content.get(name) if isinstance(content, dict) else None for name in ("seeds", "texts")]
    seeds, texts = (value if isinstance(value, list) else [] for value in found)
    pairs = zip(seeds, map(str, texts), strict=False)
    shown = "\n\n".join(f"--- seed {seed}\n{text[:_MOST_TEXT_CHARS]}" for seed, text in pairs)
    return f"{image}<pre>{html.escape(shown)}</pre>" if shown else image


def _slider(name: str, frames: Sequence[str]) -> str:
    """Return frames of which one is shown: that of the checked radio button, which arrow keys move."""
    inputs = "".join(
        f'<input type="radio" name="{name}" id="{name}{i}" aria-label="{name}, frame {i + 1} of {len(frames)}"'
        f"{' checked' if i == len(frames) - 1 else ''}>"
        for i in range(len(frames))
        if len(frames) > 1
    )
    rules = "".join(
        f"#{name}{i}:checked ~ .frames > div:nth-child({i + 1}) {{ display: block; }}\n" for i in range(len(frames))
    )
    inside = "".join(f"<div>{frame}</div>" for frame in frames)
    return (
        f'<style>{rules}</style><div class="slider">{inputs}<div class="frames">{inside}</div></div>' if frames else ""
    )
