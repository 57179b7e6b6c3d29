"""Learning-rate schedule over fractional epochs: linear warm-up, then constant or half a cosine."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

from jitflow.errors import ConfigError, unknown_name

log = logging.getLogger(__name__)
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings of the learning rate's schedule.

    Attributes:
        lr_schedule: ``"constant"`` or ``"cosine"``.
        warmup_epochs: Length of the linear warm-up from 0.
        min_lr: Learning rate at the end of the cosine.
        epochs: Length of the whole training, at whose end the cosine ends.

    Raises:
        ConfigError: If the schedule is unknown or the warm-up longer than the training.

    References:
        Loshchilov & Hutter 2017, arXiv:1608.03983.
    """

    lr_schedule: str = "constant"
    warmup_epochs: float = 5
    min_lr: float = 0.0
    epochs: float = 600

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.lr_schedule not in SCHEDULES:
            raise unknown_name("learning-rate schedule", self.lr_schedule, SCHEDULES)
        for name in ("warmup_epochs", "min_lr"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative; got {getattr(self, name)}")
        if not self.epochs > 0:
            raise ConfigError(f"epochs must be positive; got {self.epochs}")
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                f"the warm-up ({self.warmup_epochs} epochs) is longer than the training ({self.epochs} epochs)"
            )

    def learning_rate(self, epoch: float, peak: float) -> float:
        """Compute the learning rate at a fractional epoch.

        Args:
            epoch: Epochs done so far, counted in batches: epoch index + batch index / batches in an epoch.
            peak: Rate after the warm-up.

        Returns:
            The rate.
        """
        if epoch < self.warmup_epochs:
            return peak * epoch / self.warmup_epochs
        if self.lr_schedule == "constant":
            return peak
        if epoch >= self.epochs:
            return self.min_lr
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.min_lr + (peak - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def shorten_warmup(warmup_epochs: float, epochs: float) -> float:
    """Return the warm-up's length: half of the training at most, with a log message if it was longer.

    Args:
        warmup_epochs: Requested length of the warm-up.
        epochs: Length of the training.
    """
    longest = epochs / 2
    if warmup_epochs <= longest:
        return warmup_epochs
    log.warning("the warm-up of %g epochs is shortened to half of the training, %g", warmup_epochs, longest)
    return longest


class LearningRateSchedulerCallback(pl.Callback):
    """Set the learning rate before every step.

    With gradient accumulation, the batch that triggers the optimiser step sets the rate. The peak rate is the one that
    the optimiser was created with; it is stored in the optimiser's state and so survives a resume.

    Args:
        lr_schedule: ``"constant"`` or ``"cosine"``.
        warmup_epochs: Length of the linear warm-up from 0.
        min_lr: Learning rate at the end of the cosine.
        epochs: Length of the whole training.

    Raises:
        ConfigError: If the schedule is unknown or the warm-up longer than the training.
    """

    def __init__(
        self, lr_schedule: str = "constant", warmup_epochs: float = 5, min_lr: float = 0.0, epochs: float = 600
    ) -> None:
        settings = ScheduleSettings(lr_schedule, warmup_epochs, min_lr, epochs)
        # Attributes that subclasses read.
        self.lr_schedule = settings.lr_schedule
        self.warmup_epochs = settings.warmup_epochs
        self.min_lr = settings.min_lr
        self.epochs = settings.epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the peak learning rate of each parameter group in the optimiser's state."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # A resumed optimiser has the rate of its last step, not the peak.
                peak = group["lr"] if trainer.global_step == 0 else getattr(pl_module, "learning_rate", group["lr"])
                group.setdefault("peak_lr", peak)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the next step."""
        epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
        settings = ScheduleSettings(self.lr_schedule, self.warmup_epochs, self.min_lr, self.epochs)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(epoch, group["peak_lr"])
