"""The first demo: handwritten digits, learned in about two minutes on two CPU cores and drawn on request."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from rich.console import Console
from torch import Tensor

from jitflow import pictures
from jitflow.callbacks import (
    DataRecord,
    EMACallback,
    JiTModelCheckpoint,
    LearningRateSchedulerCallback,
    TrainingProgress,
)
from jitflow.callbacks.checkpoint import LAST_NAME
from jitflow.callbacks.data_record import DATA_NAME
from jitflow.callbacks.guard import FiniteGuard
from jitflow.callbacks.history import TrainingHistory
from jitflow.callbacks.signals import resumable_exit
from jitflow.checkpoint.find import resume_point
from jitflow.codec.pixel import PixelCodec
from jitflow.core.seeding import use_seeds
from jitflow.data.digits import DigitsDataModule, digits_arrays
from jitflow.errors import ConfigError
from jitflow.evaluation.digits_features import DigitsExtractor
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.moments import Moments
from jitflow.io.files import read_json, writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.model import Model, load
from jitflow.run.folder import CONFIG_NAME, write_run_folder
from jitflow.run.recipe import build, read_recipe
from jitflow.run.report import REPORT_NAME, write_final_report
from jitflow.training.samples import Samples
from jitflow.verbs.demo_folder import check_same_run, remove_run

RECIPE = "images/digits"
NUM_CLASSES = 10
GRID_COLUMNS = 8
# What a restart removes.
_FILES = (
    REPORT_NAME,
    DATA_NAME,
    "metrics.json",
    "samples.png",
    "trajectory.png",
    "loss.png",
    CONFIG_NAME,
    "environment.json",
)
NUM_JUDGED = 1000
# The grid takes the first seeds of the judged images, so what is looked at is part of what is counted.
_FIRST_SEED = 0


def run(
    out: Path, *, seed: int = 0, restart: bool = False, dry_run: bool = False, quick: bool = False
) -> dict[str, Any]:
    """Train, sample, judge, and say how it went.

    Args:
        out: Folder of the results: ``samples.png``, ``trajectory.png``, ``loss.png``, ``metrics.json``,
            ``checkpoints/``, ``config.yaml``, ``environment.json``.
        seed: Seed of the training.
        restart: Throw away what the folder holds.
        dry_run: Say what would be done, and do nothing.
        quick: Two epochs and few images, for tests; the digits are not readable then.

    Returns:
        What ``metrics.json`` holds; empty after a dry run.

    Raises:
        ConfigError: If the folder holds a run with other settings.
    """
    console = Console(stderr=True)
    recipe = read_recipe(RECIPE)
    recipe["seed_everything"] = seed
    if quick:
        recipe["trainer"]["max_epochs"] = 2
        recipe["schedule"]["warmup_epochs"] = 1
    metrics_path, last = out / "metrics.json", out / "checkpoints" / LAST_NAME
    if dry_run:
        state = "report what is there" if metrics_path.exists() else "resume" if last.exists() else "train anew"
        console.print(f"would {'train anew' if restart else state} in {out} (recipe {RECIPE}, seed {seed})")
        return {}
    if restart:
        remove_run(out, folders=("checkpoints",), files=_FILES)
    config = out / CONFIG_NAME
    if config.exists():
        check_same_run(config, yaml.safe_load(config.read_text(encoding="utf-8")), recipe)
    if metrics_path.exists():
        metrics: dict[str, Any] = read_json(metrics_path)
        console.print(f"{out} is finished already; --restart trains anew.")
        _summary(out, metrics)
        return metrics

    write_run_folder(writable_folder(out), recipe, seed=seed)
    history = _train(out, recipe, last, console)
    model = load(last, device="cpu")
    console.print(f"sampling {NUM_JUDGED if not quick else 80} digits and reading them with an SVM")
    judge = DigitJudge()
    started = time.monotonic()
    samples, agreement = _sample_and_judge(model, judge, per_class=GRID_COLUMNS if quick else NUM_JUDGED // NUM_CLASSES)
    sampling_seconds = time.monotonic() - started
    distance, floor = digits_distance(samples.pixels, cache=out)
    _save_pictures(out, model, samples, history.losses)
    data = recipe["data"]["init_args"]
    metrics = {
        "class_agreement": round(agreement, 4),
        "judged_samples": len(samples),
        "svm_accuracy_on_held_out_scans": round(judge.held_out_accuracy, 4),
        "frechet_to_held_out_scans": round(distance, 3),
        "frechet_between_halves_of_the_scans": round(floor, 3),
        "train_seconds": round(history.seconds, 1),
        "train_steps": len(history.losses),
        "images_per_sec": round(len(history.losses) * data["batch_size"] / history.seconds, 1),
        "final_loss": round(float(np.mean(history.losses[-50:])), 4),
        "sampling_images_per_sec": round(len(samples) / sampling_seconds, 1),
        "settings": samples.settings,
    }
    write_json(metrics_path, metrics)
    write_final_report(out)
    _summary(out, metrics)
    return metrics


class DigitJudge:
    """A support-vector classifier of real scans, to say which digit a generated one looks like.

    It is trained on the same scans as the model and measured on scans that neither has seen.
    """

    def __init__(self) -> None:
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise ConfigError("the digits' judge needs scikit-learn; pip install 'jitflow[demo]'") from error
        images, labels = digits_arrays("train")
        self._svm = SVC(C=10, gamma="scale").fit(images.reshape(len(images), -1), labels)
        images, labels = digits_arrays("val")
        self.held_out_accuracy = float(self._svm.score(images.reshape(len(images), -1), labels))

    def read(self, pixels: Tensor) -> np.ndarray:
        """Read digits.

        Args:
            pixels: Images, shape ``(N, 1, H, W)``, uint8, with H and W multiples of 8.

        Returns:
            The digit each looks like, shape ``(N,)``.
        """
        small = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 8) * (16 / 255)
        return np.asarray(self._svm.predict(small.round().flatten(1).numpy()))


def digits_distance(pixels: Tensor, *, cache: Path | None = None) -> tuple[float, float]:
    """Measure how far generated digits are from real ones, with what the measure says of real ones as its floor.

    Args:
        pixels: Generated digits, shape ``(N, 1, 16, 16)``, uint8.
        cache: Folder to keep the small network in.

    Returns:
        Frechet distance between generated and held-out digits under the features of a small network trained on
        the others, and the same distance between two halves of all real digits.
    """
    extractor = DigitsExtractor(cache_dir=cache)
    data = DigitsDataModule((pixels.shape[-2], pixels.shape[-1]))
    data.setup("fit")
    train, held_out = data.dataset_train.images, data.dataset_val.images
    every = torch.cat([train, held_out])
    halves = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))].chunk(2)

    def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
        moments = Moments(extractor.dim)
        moments.update(extractor(images).features)
        return moments.mean, moments.covariance

    generated = frechet_distance(*statistics(pixels), *statistics(held_out))
    return generated, frechet_distance(*statistics(halves[0]), *statistics(halves[1]))


def _train(out: Path, recipe: dict[str, Any], last: Path, console: Console) -> TrainingHistory:
    pl.seed_everything(recipe["seed_everything"], verbose=False)
    module, data = build(recipe["model"]), build(recipe["data"])
    history = TrainingHistory()
    epochs = recipe["trainer"]["max_epochs"]
    callbacks = [
        EMACallback(module.ema_decay1, module.ema_decay2),
        LearningRateSchedulerCallback(**recipe["schedule"], epochs=epochs),
        JiTModelCheckpoint(out / "checkpoints", **recipe["checkpoint"]),
        TrainingProgress(),
        DataRecord(out),
        FiniteGuard(),
        history,
    ]
    resume = resume_point(out)
    console.print(f"resuming from {resume}" if resume else f"training on scikit-learn's digits, {epochs} epochs")
    with warnings.catch_warnings():
        # Hints for large data sets: worker counts, batch sizes.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            **recipe["trainer"],
            accelerator="cpu",
            devices=1,
            callbacks=callbacks,
            logger=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=out,
        )
        with resumable_exit(trainer, "the same command goes on"):
            trainer.fit(module, datamodule=data, ckpt_path=resume)
    return history


def _sample_and_judge(model: Model, judge: DigitJudge, *, per_class: int) -> tuple[Samples, float]:
    labels = [digit for digit in range(NUM_CLASSES) for _ in range(per_class)]
    with meter("sampling", len(labels)) as progress:
        samples = model.sample(
            labels,
            _FIRST_SEED,
            batch_size=250,
            on_progress=lambda done, in_all: progress.update(len(labels) * done / in_all),
        )
    return samples, float(np.mean(judge.read(samples.pixels) == np.array(labels)))


def _save_pictures(out: Path, model: Model, samples: Samples, losses: list[float]) -> None:
    per_class = len(samples) // NUM_CLASSES
    rows = samples.pixels.unflatten(0, (NUM_CLASSES, per_class))[:, :GRID_COLUMNS].flatten(0, 1)
    pictures.save_image(pictures.grid(rows.numpy(), columns=GRID_COLUMNS, scale=4), out / "samples.png")
    strip = denoising_strip(model, label=3, seed=_FIRST_SEED + 3 * per_class)
    pictures.save_image(pictures.grid(strip.numpy(), columns=len(strip), scale=6), out / "trajectory.png")
    pictures.plot_curve(
        out / "loss.png",
        range(1, len(losses) + 1),
        losses,
        xlabel="optimiser step",
        ylabel="velocity loss",
        title="JiT on handwritten digits",
        smooth=min(50, len(losses)),
    )


def denoising_strip(model: Model, *, label: int, seed: int, num_pictures: int = 11) -> Tensor:
    """Watch one sample form out of noise.

    Args:
        model: A trained model on pixels.
        label: Its class.
        seed: Its seed.
        num_pictures: How many states to keep, spread evenly from the noise to the image.

    Returns:
        States as images, shape ``(num_pictures, C, H, W)``, uint8.
    """
    module = model.module
    assert isinstance(module.codec, PixelCodec)
    states: list[Tensor] = []
    with use_seeds([seed]), module.watch_sampling(lambda done, in_all, t, x: states.append(x)):
        module.generate(torch.tensor([label]))
    chosen = np.linspace(0, len(states) - 1, num_pictures).round().astype(int)
    return torch.cat([module.codec.decode(states[i]) for i in chosen])


def _summary(out: Path, metrics: dict[str, Any]) -> None:
    # The result goes to standard output, the progress before it to standard error.
    Console(soft_wrap=True).print(
        f"trained {metrics['train_steps']} steps in {metrics['train_seconds']:.0f} s "
        f"({metrics['images_per_sec']:.0f} images/s)\n"
        f"an SVM (right on {metrics['svm_accuracy_on_held_out_scans']:.1%} of held-out real scans) reads "
        f"{metrics['class_agreement']:.1%} of {metrics['judged_samples']} samples as the digit asked for\n"
        f"Frechet distance to held-out scans {metrics['frechet_to_held_out_scans']:.2f} "
        f"(between two halves of the real scans: {metrics['frechet_between_halves_of_the_scans']:.2f})\n"
        f"look at {out / 'samples.png'}, {out / 'trajectory.png'}, {out / 'loss.png'}\n"
        f"draw more: jitflow sample {out / 'checkpoints' / 'last.ckpt'} --labels 0-9 --count 4"
    )
