"""The demo of images: train on handwritten digits in about two minutes on two CPU cores, and score the samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from jitflow import pictures
from jitflow.apps.images.digit_judge import DigitJudge, digits_distance
from jitflow.codec.pixel import PixelCodec
from jitflow.core.seeding import use_seeds
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.matrix import overview
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.protocol import read_report
from jitflow.evaluation.rows import ScoringOptions
from jitflow.io.progress import meter
from jitflow.model import Model, load
from jitflow.training.demo import Demo, DemoState
from jitflow.training.samples import Samples

_NUM_CLASSES = 10
_GRID_COLUMNS = 8
_SAMPLES, _TRAJECTORY, _LOSS, _EVALUATION = "samples.png", "trajectory.png", "loss.png", "evaluation"
# A classifier of digits, a network that never saw a label, and plain pixels.
_SPACES = "digits,digits-rotation,pixels"
# As many as there are held-out scans, 359, with which they are compared, and a multiple of the digits.
_NUM_COMPARED = 350
# The grid uses the first seeds of the scored images, so that it shows some of them.
_FIRST_SEED = 0


def denoising_strip(model: Model, *, label: int, seed: int, num_pictures: int = 11) -> Tensor:
    """Sample one image and return intermediate states from noise to image.

    Args:
        model: A trained model on pixels.
        label: Class of the image.
        seed: Seed of the image.
        num_pictures: Number of states, evenly spread over the steps.

    Returns:
        States as images, shape ``(num_pictures, C, H, W)``, uint8.
    """
    module = model.module
    assert isinstance(module.codec, PixelCodec)
    states: list[Tensor] = []
    with use_seeds([seed]), module.watch_sampling(lambda done, total, t, x: states.append(x)):
        module.generate(torch.tensor([label]))
    chosen = np.linspace(0, len(states) - 1, num_pictures).round().astype(int)
    return torch.cat([module.codec.decode(states[i]) for i in chosen])


def _sample(state: DemoState) -> None:
    """Sample digits of every class, classify them, and save pictures."""
    assert state.checkpoint is not None
    model = load(state.checkpoint, device="cpu")
    labels = [digit for digit in range(_NUM_CLASSES) for _ in range(state.settings["num_judged"] // _NUM_CLASSES)]
    state.console.print(f"sampling {len(labels)} digits and reading them with an SVM")
    judge = DigitJudge()
    started = time.monotonic()
    samples = _draw(model, labels)
    agreement = float(np.mean(judge.read(samples.pixels) == np.array(labels)))
    sampling_seconds = time.monotonic() - started
    distance, floor = digits_distance(samples.pixels, cache=state.out)
    _save_pictures(state.out, model, samples, state.losses)
    num_images = len(state.losses) * state.training["data.batch_size"]
    state.metrics.update(
        {
            "class_agreement": round(agreement, 4),
            "judged_samples": len(samples),
            "svm_accuracy_on_held_out_scans": round(judge.held_out_accuracy, 4),
            "frechet_to_held_out_scans": round(distance, 3),
            "frechet_between_halves_of_the_scans": round(floor, 3),
            "train_seconds": round(state.train_seconds, 1),
            "train_steps": len(state.losses),
            "images_per_sec": round(num_images / state.train_seconds, 1),
            "final_loss": round(float(np.mean(state.losses[-50:])), 4),
            "sampling_images_per_sec": round(len(samples) / sampling_seconds, 1),
            "settings": samples.settings,
        }
    )


def _evaluate(state: DemoState) -> None:
    """Score samples with and without guidance in three feature spaces that need no download."""
    assert state.checkpoint is not None
    num = min(_NUM_COMPARED, state.settings["num_judged"])
    state.console.print(f"comparing {num} digits a row with real ones in three feature spaces")
    report = evaluate(
        state.checkpoint,
        Plan(num, _FIRST_SEED, batch_size=250),
        reference="digits",
        extractors=_SPACES,
        scoring=ScoringOptions(rows="guided,unguided,balanced"),
        out=state.out / _EVALUATION,
        device="cpu",
    )
    ratios = {name: value for name, value in report["metrics"].items() if name.endswith("/arithmetic")}
    state.metrics["frechet_ratios"] = {name: round(value, 3) for name, value in ratios.items()}


def _draw(model: Model, labels: list[int]) -> Samples:
    with meter("sampling", len(labels)) as progress:
        return model.sample(labels, _FIRST_SEED, batch_size=250, on_progress=progress.update_share)


def _save_pictures(out: Path, model: Model, samples: Samples, losses: list[float]) -> None:
    per_class = len(samples) // _NUM_CLASSES
    rows = samples.pixels.unflatten(0, (_NUM_CLASSES, per_class))[:, :_GRID_COLUMNS].flatten(0, 1)
    pictures.save_image(pictures.grid(rows.numpy(), columns=_GRID_COLUMNS, scale=4), out / _SAMPLES)
    strip = denoising_strip(model, label=3, seed=_FIRST_SEED + 3 * per_class)
    pictures.save_image(pictures.grid(strip.numpy(), columns=len(strip), scale=6), out / _TRAJECTORY)
    pictures.plot_losses(out / _LOSS, losses, title="JiT on handwritten digits", name="velocity loss")


def _describe(out: Path, metrics: Mapping[str, Any]) -> None:
    # The result goes to standard output, the progress before it to standard error.
    console = Console(markup=False, soft_wrap=True)
    console.print(
        f"trained {metrics['train_steps']} steps in {metrics['train_seconds']:.0f} s "
        f"({metrics['images_per_sec']:.0f} images/s)\n"
        f"an SVM (right on {metrics['svm_accuracy_on_held_out_scans']:.1%} of held-out real scans) reads "
        f"{metrics['class_agreement']:.1%} of {metrics['judged_samples']} samples as the requested digit\n"
        f"Frechet distance to held-out scans {metrics['frechet_to_held_out_scans']:.2f} "
        f"(between two halves of the real scans: {metrics['frechet_between_halves_of_the_scans']:.2f})\n"
        f"look at {out / _SAMPLES}, {out / _TRAJECTORY}, {out / _LOSS}\n"
        f"draw more: jitflow sample {out / 'checkpoints' / 'last.ckpt'} --labels 0-9 --count 4"
    )
    # A demo of an earlier version has none.
    if (out / _EVALUATION / "report.json").exists():
        console.print(overview(read_report(out / _EVALUATION)))


DEMO = Demo(
    summary="Train a small JiT on scikit-learn's handwritten digits and draw some.",
    recipe="images/digits",
    overrides={"trainer.devices": 1, "trainer.logger": False},
    settings={"num_judged": 1000},
    # Too short for readable digits.
    quick={
        "trainer.max_epochs": 2,
        "schedule.warmup_epochs": 1,
        "settings.num_judged": 10 * _GRID_COLUMNS,
    },
    after={"sample": _sample, "evaluate": _evaluate},
    describe=_describe,
    writes=(_SAMPLES, _TRAJECTORY, _LOSS, _EVALUATION),
)
