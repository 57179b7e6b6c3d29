"""Length of a training in epochs and steps, and the schedule and EMA decays derived from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jitflow.callbacks.schedule import LearningRateSchedulerCallback, shorten_warmup
from jitflow.errors import ConfigError
from jitflow.run.strategy import count_devices

# Length of the learning-rate schedule if neither max_epochs nor max_steps ends a training.
_ENDLESS_EPOCHS = 600


@dataclass(frozen=True)
class Course:
    """Length of a training in batches, steps and epochs.

    Attributes:
        batches_per_epoch: Batches of one process in an epoch.
        steps_per_epoch: Optimiser steps in an epoch.
        num_epochs: Epochs until the end, a fraction where steps end it first.
        num_processes: Processes that share the data, one for each device.
    """

    batches_per_epoch: int
    steps_per_epoch: int
    num_epochs: float
    num_processes: int

    @property
    def num_steps(self) -> float:
        """Optimiser steps until the end."""
        return self.num_epochs * self.steps_per_epoch


def plan_course(recipe: Mapping[str, Any], num_samples: int | None, *, batch_size: int, drop_last: bool) -> Course:
    """Compute the length of a training from its recipe and data set.

    Args:
        recipe: Complete settings.
        num_samples: Training samples; None if unknown.
        batch_size: Samples of a batch on one process.
        drop_last: Whether the last, smaller batch of an epoch is dropped.

    Raises:
        ConfigError: If there is no device, no node, or no batch for a step, or validation is due after more
            batches than an epoch has.
    """
    trainer = recipe["trainer"]
    counts = {name: int(trainer[name]) for name in ("num_nodes", "accumulate_grad_batches")}
    counts["devices"] = count_devices(trainer["devices"], trainer["accelerator"])
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"trainer.{name} must be at least 1; got {trainer[name]!r}")
    world = counts["devices"] * counts["num_nodes"]
    share = (num_samples or 0) / (batch_size * world)
    batches = max(1, math.floor(share) if drop_last else math.ceil(share))
    limit = trainer["limit_train_batches"]
    if limit is not None:
        batches = max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))
    between = trainer["val_check_interval"]
    counted = isinstance(between, int) and num_samples is not None and trainer["check_val_every_n_epoch"] is not None
    if counted and between > batches and trainer["limit_val_batches"] != 0:
        raise ConfigError(
            f"trainer.val_check_interval {between} is more than the {batches} batches of an epoch; with "
            "trainer.check_val_every_n_epoch null it counts batches across epochs"
        )
    steps = math.ceil(batches / counts["accumulate_grad_batches"])
    lengths = []
    if trainer["max_epochs"] is not None and trainer["max_epochs"] > 0:
        lengths.append(float(trainer["max_epochs"]))
    if trainer["max_steps"] > 0 and num_samples is not None:
        lengths.append(trainer["max_steps"] / steps)
    return Course(batches, steps, min(lengths, default=float(_ENDLESS_EPOCHS)), world)


def schedule_of(recipe: Mapping[str, Any], course: Course) -> LearningRateSchedulerCallback:
    """Make the learning-rate schedule; a warm-up longer than half of the training is shortened."""
    settings = dict(recipe["schedule"])
    settings["warmup_epochs"] = shorten_warmup(settings["warmup_epochs"], course.num_epochs)
    return LearningRateSchedulerCallback(**settings, epochs=course.num_epochs)


def ema_decays(settings: Mapping[str, Any], course: Course) -> dict[str, float]:
    """Choose the EMA decays that a recipe leaves null.

    The first spans a tenth of a short training, and no more than 10,000 steps; the second a quarter of the first.

    Args:
        settings: Arguments of the model's class.
        course: Length of the training.

    Returns:
        The chosen decays by argument.
    """
    chosen: dict[str, float] = {}
    decay = settings.get("ema_decay1", 0.0)
    if decay is None:
        decay = chosen["ema_decay1"] = min(0.9999, 1 - 10 / max(course.num_steps, 20))
    if settings.get("ema_decay2", 0.0) is None:
        chosen["ema_decay2"] = max(0.0, 1 - (1 - decay) * 4)
    return chosen
