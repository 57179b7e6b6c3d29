"""Learning rate over fractional epochs: linear warm-up, then constant or half a cosine."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl

from jitflow.errors import ConfigError, unknown_name

SCHEDULES = ("constant", "cosine")


def learning_rate_at(
    epoch: float,
    *,
    peak: float,
    schedule: str = "constant",
    warmup_epochs: float = 5,
    min_lr: float = 0.0,
    epochs: float = 600,
) -> float:
    """Learning rate at a fractional epoch.

    Args:
        epoch: Epochs done so far, counted in batches: epoch index + batch index / batches in an epoch.
        peak: Rate after the warm-up.
        schedule: ``"constant"`` or ``"cosine"``.
        warmup_epochs: Length of the linear warm-up, which starts at 0.
        min_lr: Rate at the end of the cosine.
        epochs: Where the cosine ends.

    Returns:
        The rate.

    References:
        Loshchilov & Hutter 2017, arXiv:1608.03983.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    if schedule == "constant":
        return peak
    if epoch >= epochs:
        return min_lr
    done = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (peak - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


class LearningRateSchedulerCallback(pl.Callback):
    """Set the learning rate before every step.

    Under gradient accumulation the batch that makes the step decides. The peak rate is the one the
    optimiser was built with; it is kept in the optimiser's state and so survives a resume.

    Args:
        lr_schedule: ``"constant"`` or ``"cosine"``.
        warmup_epochs: Length of the linear warm-up from 0.
        min_lr: Rate at the end of the cosine.
        epochs: Length of the whole training.

    Raises:
        ConfigError: If the schedule is unknown or the warm-up longer than the training.
    """

    def __init__(
        self, lr_schedule: str = "constant", warmup_epochs: float = 5, min_lr: float = 0.0, epochs: float = 600
    ) -> None:
        if lr_schedule not in SCHEDULES:
            raise unknown_name("learning-rate schedule", lr_schedule, SCHEDULES)
        if warmup_epochs < 0 or epochs <= 0 or min_lr < 0:
            raise ConfigError("warmup_epochs and min_lr must not be negative, and epochs must be positive")
        if warmup_epochs > epochs:
            raise ConfigError(f"the warm-up ({warmup_epochs} epochs) is longer than the training ({epochs} epochs)")
        self.lr_schedule = lr_schedule
        self.warmup_epochs = warmup_epochs
        self.min_lr = min_lr
        self.epochs = epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the peak rate of each group where the optimiser's state carries it along."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # A resumed optimiser holds the rate of its last step, not the peak.
                peak = group["lr"] if trainer.global_step == 0 else getattr(pl_module, "learning_rate", group["lr"])
                group.setdefault("peak_lr", peak)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate for the coming step."""
        epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(
                    epoch,
                    peak=group["peak_lr"],
                    schedule=self.lr_schedule,
                    warmup_epochs=self.warmup_epochs,
                    min_lr=self.min_lr,
                    epochs=self.epochs,
                )
