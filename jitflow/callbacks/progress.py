"""Progress bar of a training: loss, speed, memory, time left."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jitflow.callbacks.utilisation import peak_images_per_sec, peak_memory_gib
from jitflow.io.units import describe_time, format_seconds
from jitflow.training.module import FlowModule
from jitflow.training.outputs import read_outputs

log = logging.getLogger(__name__)
# The steps after the first, which is often slower, that the forecast of the whole training is made from; a first step
# that takes longer than so many seconds is enough.
_TIMED_STEPS, _LONG_FIRST_SEC = 3, 10.0


class TrainingProgress(pl.callbacks.ProgressBar):
    """Progress bar over the optimiser steps in a terminal; log lines at intervals elsewhere.

    It shows loss, images per second, peak memory, model FLOPs utilisation (MFU, if the device's peak is known) and time
    left. The loss is read from the device only when it is shown, twice a second, so that the accelerator's queue never
    runs empty. After the first steps the time of the whole training is logged, and how much of it fits into a day.

    Args:
        line_every_sec: Seconds between two log lines without a terminal.
    """

    def __init__(self, line_every_sec: float = 15.0) -> None:
        super().__init__()
        self.line_every_sec = line_every_sec
        self._enabled = True
        self._bar: Progress | None = None
        self._loss = float("nan")
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=40)

    def disable(self) -> None:
        """Hide the progress bar (Lightning calls this on every process but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the progress bar again."""
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether progress is shown."""
        return self._enabled

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the progress bar."""
        self._images = 0
        self._shown = self._lined = time.monotonic()
        self._marks.clear()
        self._marks.append((self._shown, trainer.global_step, 0))
        # Steps done and the time, at the start and after the first step.
        self._begun, self._is_forecast = [(trainer.global_step, self._shown)], False
        self._device = pl_module.device
        self._best_rate = (
            peak_images_per_sec(pl_module, num_devices=trainer.world_size)
            if self._enabled and isinstance(pl_module, FlowModule)
            else None
        )
        console = Console(markup=False, stderr=True)
        if self._enabled and console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=total_steps(trainer), completed=trainer.global_step, numbers="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the progress bar, at most twice a second."""
        self._images += len(batch[1]) * trainer.world_size
        is_timed = self._enabled and self._is_timed(trainer.global_step)
        loss = read_outputs(outputs).loss
        if is_timed and loss is not None:
            # Waits for an accelerator.
            loss.item()
        now = time.monotonic()
        if is_timed:
            self._forecast(trainer, now)
        if not self._enabled or now - self._shown < 0.5:
            return
        self._shown = now
        if loss is not None:
            value = float(loss)
            self._loss = value if self._loss != self._loss else 0.8 * self._loss + 0.2 * value
        numbers = self._numbers(trainer, now)
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, numbers=numbers)
        elif now - self._lined >= self.line_every_sec:
            self._lined = now
            total = total_steps(trainer)
            log.info("step %d%s  %s", trainer.global_step, f"/{total}" if total else "", numbers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the progress bar."""
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the progress bar."""
        self._close(trainer)

    def _is_timed(self, step: int) -> bool:
        """Whether this step is one from which the time of the training is forecast: the first, or a few later."""
        done = step - self._begun[0][0]
        return not self._is_forecast and step != self._begun[-1][0] and (done == 1 or done > _TIMED_STEPS)

    def _forecast(self, trainer: pl.Trainer, now: float) -> None:
        """Log the time that the rest of the training takes, from its first steps."""
        step = trainer.global_step
        # The first step is often slower, but not waited for again if it is long.
        first = self._begun[-1]
        self._begun.append((step, now))
        if len(self._begun) == 2 and now - first[1] < _LONG_FIRST_SEC:
            return
        self._is_forecast = True
        total, step_sec = total_steps(trainer), (now - first[1]) / (step - first[0])
        if total is not None and total > step:
            log.info("%s; without validation and saving", describe_time(step_sec, total - step))

    def _close(self, trainer: pl.Trainer) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.stop()
            self._bar = None

    def _numbers(self, trainer: pl.Trainer, now: float) -> str:
        self._marks.append((now, trainer.global_step, self._images))
        then, step, images = self._marks[0]
        seconds = now - then
        rate = (self._images - images) / seconds
        # Below ten per second, a whole number is too coarse.
        parts = [f"loss {self._loss:.4f}", f"{rate:.{0 if rate >= 10 else 1}f} images/s"]
        if self._best_rate is not None:
            parts.append(f"MFU {rate / self._best_rate:.0%}")
        parts.append(f"{peak_memory_gib(self._device):.1f} GiB")
        total, pace = total_steps(trainer), (trainer.global_step - step) / seconds
        if total and pace:
            parts.append(f"ETA {format_seconds((total - trainer.global_step) / pace)}")
        return "  ".join(parts)


def total_steps(trainer: pl.Trainer) -> int | None:
    """Return the optimiser steps of the whole training; None if it has no end."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else None
