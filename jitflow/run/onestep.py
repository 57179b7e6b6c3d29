"""Recipe of the one-step post-training of a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from jitflow.callbacks.held_out import SCORE, HeldOutJudge
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.state import application_of
from jitflow.codec.pixel import PixelCodec
from jitflow.data.requests import LabelDataModule
from jitflow.errors import ConfigError
from jitflow.posttraining.options import JudgeOptions, MethodOptions, RunOptions
from jitflow.posttraining.term import FrechetLoss
from jitflow.run.recipe import copy_nested
from jitflow.run.strategy import count_devices
from jitflow.training.module import FlowModule

BEST = "best.ckpt"
"""File of the state with the best score of the held-out judge."""
# The model is trained to be sampled just so: Euler's method in equal steps, without guidance.
_SAMPLING: dict[str, Any] = {
    "sampling_method": "euler",
    "cfg_scale": 1.0,
    "time_shift": 1.0,
    "guidance_rule": "cfg",
    "internal_guidance": 1.0,
    "churn": 0.0,
    "sde": 0.0,
}


def one_step_recipe(checkpoint: Path, method: MethodOptions, judging: JudgeOptions, run: RunOptions) -> dict[str, Any]:
    """Make the recipe that post-trains a checkpoint: the same network, trained on the Frechet distance.

    Args:
        checkpoint: File of the trained model, of any format.
        method: What is optimised, and how.
        judging: The held-out judge.
        run: Where and how it runs; its ``run_dir`` is not part of a recipe.

    Returns:
        The recipe, for :func:`jitflow.run.fit.fit`.

    Raises:
        ConfigError: If an option is missing or out of range, or the model is none of images in pixels.
        CheckpointError: If the checkpoint is damaged or its application not installed.
    """
    if method.reference is None:
        raise ConfigError(
            "--reference is missing: give an .npz of `jitflow stats` with the same --extractors, a folder of real "
            "images, or digits"
        )
    steps = method.step_numbers()
    state = read_state(checkpoint)
    cls = application_of(state, checkpoint, otherwise="post-train another checkpoint").module
    settings = {**copy_nested(dict(state.settings)), **_SAMPLING, "num_sampling_steps": steps[0]}
    # Labels are never dropped, so that it can be asked for its classes only.
    settings |= {"label_drop_prob": 0.0, "learning_rate": method.learning_rate, "loss_terms": None}
    settings |= {"ema_decay1": None, "ema_decay2": None, "ema_warmup": True, "optimizer": "adamw", "weight_decay": 0.0}
    sketch = _sketch(cls, settings)
    if not isinstance(sketch.codec, PixelCodec):
        raise ConfigError(
            f"{checkpoint} works in the space of {type(sketch.codec).__name__}; one-step post-training compares "
            "pixels, and takes models of images only"
        )
    settings["loss_terms"] = {
        f"{FrechetLoss.__module__}.{FrechetLoss.__qualname__}": {
            "extractors": method.extractors,
            "reference": method.reference,
            "steps": steps,
            "micro_batch_size": method.micro_batch_size,
            "decay": method.decay,
            "num_first": method.num_first,
        }
    }
    every = min(judging.judge_every, method.updates)
    num_epochs = math.ceil(method.updates / every)
    return {
        "seed_everything": run.seed,
        "init_from": str(checkpoint),
        "init_ema": run.ema,
        "model": {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": settings},
        "data": _data(sketch, list(state.extra.get("classes") or ()), method.batch_size, every, run),
        "trainer": {
            "max_epochs": num_epochs,
            "accelerator": run.accelerator,
            "devices": run.devices,
            "precision": run.precision,
            "callbacks": _judges(method.reference, judging),
        },
        "schedule": {"lr_schedule": "cosine", "warmup_epochs": num_epochs / 10},
        "checkpoint": {
            "save_last_freq": 1,
            "save_milestone_freq": 0,
            **({"best_name": BEST, "monitor": SCORE} if judging.judge else {}),
        },
    }


def _sketch(cls: type[FlowModule], settings: dict[str, Any]) -> FlowModule:
    """Build the model without weights."""
    with torch.device("meta"):
        return cls(**{**settings, "ema_decay1": 0.0, "ema_decay2": 0.0})


def _data(
    module: FlowModule, classes: list[str], batch_size: int, batches_per_epoch: int, run: RunOptions
) -> dict[str, Any]:
    devices = max(1, count_devices(run.devices, run.accelerator))
    if batch_size % devices:
        raise ConfigError(f"--batch_size {batch_size} must be a multiple of the {devices} devices that share it")
    channels, height, width = module.codec.shape
    return {
        "class_path": f"{LabelDataModule.__module__}.{LabelDataModule.__qualname__}",
        "init_args": {
            "num_classes": module.num_classes,
            "img_size": height if height == width else [height, width],
            "channels": channels,
            "classes": classes,
            "batch_size": batch_size // devices,
            "num_images": batch_size * batches_per_epoch,
        },
    }


def _judges(reference: str, judging: JudgeOptions) -> list[dict[str, Any]]:
    """Return the callbacks that judge the training and end it early; none without a judge."""
    if judging.judge is None:
        return []
    judge = {
        "extractor": judging.judge,
        "reference": judging.real or reference,
        "num_images": judging.num_judged,
    }
    return [
        {"class_path": f"{HeldOutJudge.__module__}.{HeldOutJudge.__qualname__}", "init_args": judge},
        {
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": SCORE, "patience": judging.patience},
        },
    ]
