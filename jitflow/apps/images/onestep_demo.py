"""The demo of one-step post-training: the digits' model draws with one network call what took it thirty."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jitflow import pictures
from jitflow.apps.images.digit_judge import DigitJudge
from jitflow.errors import MissingFileError
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.memorisation import copies_by_ratio
from jitflow.evaluation.nearest import nearest_of
from jitflow.evaluation.reference import load_references
from jitflow.evaluation.scores import score
from jitflow.io.progress import meter
from jitflow.model import Model, load
from jitflow.training.demo import Demo, DemoState
from jitflow.training.samples import Samples
from jitflow.training.trained_on import is_same_space

_NUM_CLASSES = 10
_GRID_COLUMNS = 10
_FIRST_SEED = 0
_SAMPLES, _LOSS = "samples.png", "loss.png"
# The first two are trained on, the last one is the held-out judge.
_SPACES = ("digits", "pixels", "digits-rotation")
_SHOWN = ("frechet_distance", "precision", "recall", "coverage", "copies")


def _compare(state: DemoState) -> None:
    """Draw the same seeds with both models, score both, and save pictures."""
    if state.base is None or state.checkpoint is None:
        raise MissingFileError("the demo has no model to compare with; run it again with --restart")
    labels = [label for label in range(_NUM_CLASSES) for _ in range(state.settings["num_judged"] // _NUM_CLASSES)]
    chosen = state.best or state.checkpoint
    models = {"base": load(state.base, device="cpu"), "one_step": load(chosen, device="cpu")}
    drawn: dict[str, Samples] = {}
    svm = DigitJudge()
    for name, model in models.items():
        steps = model.module.num_sampling_steps
        state.console.print(f"sampling {len(labels)} digits with {steps} step{'s' if steps > 1 else ''}")
        drawn[name], seconds = _draw(model, labels)
        state.metrics[name] = {
            "steps": steps,
            "class_agreement": round(float(np.mean(svm.read(drawn[name].pixels) == np.array(labels))), 4),
            "images_per_sec": round(len(labels) / seconds, 1),
        }
    state.metrics["judged_samples"] = len(labels)
    state.metrics["trained_on"] = list(models["one_step"].module.trained_on)
    _score(state, drawn)
    _save_pictures(state.out, drawn, state.losses)


def _draw(model: Model, labels: list[int]) -> tuple[Samples, float]:
    """Draw a sample of each label, and time it after a first call."""
    model.sample(labels[:_NUM_CLASSES], _FIRST_SEED)
    started = time.monotonic()
    with meter("sampling", len(labels)) as progress:
        samples = model.sample(labels, _FIRST_SEED, batch_size=250, on_progress=progress.update_share)
    return samples, time.monotonic() - started


def _score(state: DemoState, drawn: Mapping[str, Samples]) -> None:
    """Compare both sets of samples with the training scans in every feature space."""
    extractors = {name: make_extractor(name, cache_dir=state.out) for name in _SPACES}
    size: dict[str, Any] = {"img_size": tuple(drawn["base"].pixels.shape[-2:]), "channels": 1}
    real = load_references("digits", extractors, **size)
    for space, extractor in extractors.items():
        train = real[space].features
        assert train is not None
        for name, samples in drawn.items():
            features = extractor(samples.pixels).features
            found = score(features, None, real[space], "frechet_distance").metrics
            found["copies"] = copies_by_ratio(nearest_of(features, train)).share
            state.metrics[name][space] = {word: round(found[word], 4) for word in _SHOWN}


def _save_pictures(out: Path, drawn: Mapping[str, Samples], losses: list[float]) -> None:
    """Draw a row of the base and below it a row of one call, with the same seeds, for every digit."""
    rows = [samples.pixels.unflatten(0, (_NUM_CLASSES, -1))[:, :_GRID_COLUMNS] for samples in drawn.values()]
    paired = torch.stack(rows, dim=1).flatten(0, 2)
    pictures.save_image(pictures.grid(paired.numpy(), columns=rows[0].shape[1], scale=3), out / _SAMPLES)
    pictures.plot_losses(out / _LOSS, losses, title="One-step post-training", name="sum of log Frechet distances")


def _describe(out: Path, metrics: Mapping[str, Any]) -> None:
    console = Console(markup=False, soft_wrap=True)
    base, ours = metrics["base"], metrics["one_step"]
    table = Table("", f"{base['steps']} steps", "1 call", title=f"{metrics['judged_samples']} digits, same seeds")
    table.add_row("SVM agreement", f"{base['class_agreement']:.1%}", f"{ours['class_agreement']:.1%}")
    table.add_row("images/s", f"{base['images_per_sec']:.0f}", f"{ours['images_per_sec']:.0f}")
    for space in _SPACES:
        name = make_name(space, metrics["trained_on"])
        for word in _SHOWN:
            table.add_row(f"{name} {word.replace('_', ' ')}", f"{base[space][word]:.3g}", f"{ours[space][word]:.3g}")
    console.print(table)
    console.print(
        "* trained on: such scores say little; judge by the others\n"
        f"look at {out / _SAMPLES} (each digit: thirty steps above, one call below), {out / _LOSS}\n"
        f"draw more: jitflow sample {out} --labels 0-9 --count 4"
    )


def make_name(space: str, trained_on: list[str]) -> str:
    """Return a feature space's name for a table, with a star if the model was trained on it.

    Args:
        space: Short name of the extractor.
        trained_on: Names of the extractors that the training optimised.
    """
    full = {"digits": "digits-cnn", "digits-rotation": "digits-rotation-cnn", "pixels": "pixels-1x8x8"}[space]
    return f"{space}{' *' if any(is_same_space(full, name) for name in trained_on) else ''}"


DEMO = Demo(
    summary="Post-train the model of `jitflow demo images`, which is trained first if need be, to draw with one call.",
    recipe="images/digits_onestep",
    base="images",
    overrides={"trainer.devices": 1, "trainer.logger": False},
    settings={"num_judged": 1000},
    # Too short for readable digits.
    quick={
        "trainer.max_epochs": 2,
        "data.num_images": 256,
        "settings.num_judged": 10 * _GRID_COLUMNS,
    },
    after={"compare": _compare},
    describe=_describe,
    writes=(_SAMPLES, _LOSS, "digits_judge.safetensors", "digits_rotation.safetensors"),
)
