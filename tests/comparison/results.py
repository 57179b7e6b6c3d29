"""Read what a commit left: losses, weights, latents, samples and scores, by name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from comparison.commands import APPLICATIONS, PATHS

Values = dict[str, Any]


class MissingResultError(Exception):
    """A commit did not leave a result; the message says why."""


@dataclass(frozen=True)
class Kind:
    """A kind of result.

    Attributes:
        name: Its name in the table.
        command: What makes it, the last part of the command's name.
        read: Reads it from the folder of an application and path: arrays, numbers or texts by name.
        applications: Who has it.
        paths: On which paths.
        extra_allowed: Whether the second commit may have more than the first.
    """

    name: str
    command: str
    read: Callable[[Path], Values]
    applications: tuple[str, ...] = APPLICATIONS
    paths: tuple[str, ...] = PATHS
    extra_allowed: bool = False


def read_losses(folder: Path) -> Values:
    """Read the loss of every batch and validation."""
    values: Values = {}
    for place, line in enumerate(_training_lines(folder)):
        step = line.pop("step")
        values.update({f"{name} {place} after {step:.0f} steps": np.float64(value) for name, value in line.items()})
    return values


def _training_lines(folder: Path) -> list[dict[str, float]]:
    path = folder / "training.jsonl"
    if not path.exists():
        raise MissingResultError("no training ran")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_weights(section: str, folder: Path) -> Values:
    """Read a section of the last checkpoint as arrays by name."""
    import torch

    files = [path for name in ("checkpoint-last.pth", "last.ckpt") for path in sorted((folder / "run").rglob(name))]
    if not files:
        raise MissingResultError("no last checkpoint")
    weights = torch.load(files[0], map_location="cpu", weights_only=True).get(section)
    if not weights:
        raise MissingResultError(f"the last checkpoint has no {section}")
    return {name: _array(value) for name, value in weights.items()}


def _array(value: Any) -> np.ndarray[Any, Any]:
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()


def read_latents(folder: Path) -> Values:
    """Read the latents of stage 1."""
    from safetensors.numpy import load_file

    files = [folder.parent / "latents" / f"{split}.safetensors" for split in ("train", "val")]
    if not all(path.exists() for path in files):
        raise MissingResultError("no latents")
    return {f"{path.stem} {name}": array for path in files for name, array in load_file(path).items()}


def read_samples(folder: Path) -> Values:
    """Read pictures as pixels, and texts."""
    from PIL import Image

    place = folder / "samples"
    values: Values = {str(path.relative_to(place)): _pixels(Image.open(path)) for path in sorted(place.rglob("*.png"))}
    texts = sorted(place.rglob("samples.txt"))
    values.update({str(path.relative_to(place)): path.read_text(encoding="utf-8") for path in texts})
    if not values:
        raise MissingResultError("no samples")
    return values


def _pixels(image: Any) -> np.ndarray[Any, Any]:
    with image:
        return np.asarray(image)


def read_scores(name: str, folder: Path) -> Values:
    """Read every number of the reports of the evaluation, but how long it took."""
    files = sorted((folder / name).glob("*.json"))
    if not files:
        raise MissingResultError("no scores")
    values: Values = {}
    for path in files:
        values.update(_numbers(json.loads(path.read_text(encoding="utf-8")), ""))
    return values


def _numbers(value: Any, name: str) -> Iterator[tuple[str, np.float64]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not any(word in key for word in ("second", "_sec", "elapsed", "duration", "version", "commit")):
                yield from _numbers(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _numbers(inner, f"{name}[{place}]")
    elif isinstance(value, int | float):
        yield name, np.float64(value)


SECTIONS = {"weights": "state_dict", "EMA 1": "model_ema1", "EMA 2": "model_ema2"}
KINDS = [
    Kind("latents", "extract", read_latents, ("microdoppler",), ("documented",)),
    Kind("losses", "train", read_losses),
    *(Kind(name, "train", functools.partial(read_weights, section)) for name, section in SECTIONS.items()),
    Kind("samples", "sample", read_samples),
    Kind("scores", "evaluate", functools.partial(read_scores, "scores"), ("images", "text"), extra_allowed=True),
    Kind(
        "scores",
        "evaluate",
        functools.partial(read_scores, "scores"),
        ("microdoppler",),
        ("documented",),
        extra_allowed=True,
    ),
    Kind(
        "scores without data_path",
        "evaluate without data_path",
        functools.partial(read_scores, "scores_without_data_path"),
        ("text",),
        extra_allowed=True,
    ),
]


@dataclass
class Side:
    """A commit and what it left.

    Attributes:
        commit: As it was given.
        tree: Its files.
        folder: Where it runs.
        status: What became of each command.
    """

    commit: str
    tree: Path
    folder: Path
    status: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, application: str, path: str, kind: Kind) -> Values:
        """Read a result; MissingResultError if a command failed or left nothing."""
        for name, outcome in self.status.items():
            if name.startswith(f"{application}/{path}/{kind.command}") and outcome["code"]:
                raise MissingResultError(f"{self.commit}: {name.partition('/')[2]} failed: {outcome['said']}")
        try:
            return kind.read(self.folder / f"{application}_{path}")
        except MissingResultError as error:
            raise MissingResultError(f"{self.commit}: {error}") from None
