"""Metric lines for log files, one every ``log_freq`` batches."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from jitflow.callbacks.utilisation import peak_memory_gib
from jitflow.errors import ConfigError
from jitflow.io.units import format_seconds
from jitflow.training.outputs import read_outputs

log = logging.getLogger(__name__)


class MetricLoggerCallback(pl.Callback):
    """Log a line of metrics on the first process: loss, learning rate, times, speed, memory and time left.

    Losses are summed on the device and read once per line, so nothing waits for the accelerator in between. The times
    are means over the line's batches.

    Args:
        log_freq: Batches between two lines.
        smoothing: Weight of the past in the smoothed loss, in ``[0, 1)``.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, log_freq: int = 100, *, smoothing: float = 0.9) -> None:
        if log_freq < 1:
            raise ConfigError(f"log_freq must be at least 1; got {log_freq}")
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing must lie in [0, 1); got {smoothing}")
        self.log_freq = log_freq
        self.smoothing = smoothing
        self._smooth: float | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Add a log handler if none exists: without logging configured, Python would drop the metric lines."""
        ours = logging.getLogger("jitflow")
        if not ours.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(message)s"))
            ours.addHandler(handler)
            ours.setLevel(logging.INFO)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the timers; a training resumed inside an epoch has no ``on_train_epoch_start``."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the timers, so that validation and checkpoints between epochs do not look like slow steps."""
        self._batches = self._images = 0
        self._loss_sum: Tensor | None = None
        self._data_sec = 0.0
        self._line_start = self._batch_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the time spent waiting for the batch."""
        self._data_sec += time.perf_counter() - self._batch_end

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the sums; log a line of metrics if one is due."""
        loss = read_outputs(outputs).loss
        if loss is not None:
            self._loss_sum = loss.float() if self._loss_sum is None else self._loss_sum + loss.float()
        self._batches += 1
        self._images += len(batch[1]) * trainer.world_size
        last = batch_idx + 1 >= trainer.num_training_batches
        if (batch_idx + 1) % self.log_freq == 0 or last:
            if trainer.is_global_zero:
                log.info(self._line(trainer, pl_module, batch_idx))
            self._batches = self._images = 0
            self._loss_sum = None
            self._data_sec = 0.0
            self._line_start = time.perf_counter()
        self._batch_end = time.perf_counter()

    def _line(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch_idx: int) -> str:
        # Reading the loss waits for the device, so read it before the clock.
        mean = math.nan if self._loss_sum is None else float(self._loss_sum) / self._batches
        seconds = time.perf_counter() - self._line_start
        self._smooth = mean if self._smooth is None else self.smoothing * self._smooth + (1 - self.smoothing) * mean
        per_batch = seconds / self._batches
        total = trainer.num_training_batches
        parts = [
            f"epoch {trainer.current_epoch} [{batch_idx + 1}/{total}]",
            f"loss {mean:.4f} ({self._smooth:.4f})",
            f"lr {trainer.optimizers[0].param_groups[0]['lr']:.3e}",
            f"step {per_batch:.3f} s",
            f"data {self._data_sec / self._batches:.3f} s",
            f"{self._images / seconds:.0f} images/s",
            f"memory {peak_memory_gib(pl_module.device):.2f} GiB",
        ]
        if total != float("inf"):
            left = int(total) - batch_idx - 1
            if trainer.max_epochs and trainer.max_epochs > 0:
                left += int(total) * (trainer.max_epochs - trainer.current_epoch - 1)
            parts.append(f"ETA {format_seconds(left * per_batch)}")
        return "  ".join(parts)
