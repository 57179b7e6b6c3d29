"""Monitor a training: loss by time, norms, speed, memory and utilisation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from jitflow.callbacks.utilisation import peak_images_per_sec, peak_memory_gib
from jitflow.errors import ConfigError
from jitflow.training.module import FlowModule
from jitflow.training.outputs import read_outputs


class TrainingWatch(pl.Callback):
    """Log norms, loss by time, speed and memory every ``every_n_steps`` optimiser steps.

    It logs ``train/grad_norm`` (before clipping), ``train/weight_norm``, ``train/ema1_norm``,
    ``train/ema2_norm``; ``loss_at/t0.0-0.2`` and so on, the mean loss since the last point of the samples with times in
    that bin (omitted if an overridden ``training_step`` returns the loss alone); ``perf/images_per_sec``,
    ``perf/memory_gib`` and, where the peak of the device is known, ``perf/mfu`` (model operations over peak
    operations).

    Losses are summed on the device and read at each point, so nothing waits for the accelerator in between.
    Only the first process logs, of its own share of the batch; speeds are those of all processes.

    Args:
        every_n_steps: Optimiser steps between two points.
        num_bins: Number of equal bins of the times from 0 to 1.

    Raises:
        ConfigError: If a number is below 1.
    """

    def __init__(self, every_n_steps: int = 50, num_bins: int = 5) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("num_bins", num_bins)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        self.every_n_steps = every_n_steps
        self.num_bins = num_bins
        self._active = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and reset the loss sums."""
        self._active = trainer.is_global_zero and bool(trainer.loggers) and isinstance(pl_module, FlowModule)
        if not self._active:
            return
        assert isinstance(pl_module, FlowModule)
        self._sums = torch.zeros(2, self.num_bins, device=pl_module.device)
        self._grad_norm: Tensor | None = None
        self._logged_at = trainer.global_step
        self._images, self._since = 0, time.perf_counter()
        self._best_rate = peak_images_per_sec(pl_module, num_devices=trainer.world_size)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Compute the norm of the gradient for the next point, before clipping."""
        if self._active and trainer.global_step + 1 >= self._logged_at + self.every_n_steps:
            self._grad_norm = _norm(p.grad for group in optimizer.param_groups for p in group["params"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the losses of the batch to their time bins; log a point if one is due."""
        if not self._active:
            return
        step = read_outputs(outputs)
        if step.t is not None and step.losses is not None:
            places, losses = (step.t * self.num_bins).long().clamp(0, self.num_bins - 1), step.losses.float()
            self._sums.index_add_(1, places, torch.stack([losses, torch.ones_like(losses)]))
        self._images += len(batch[1]) * trainer.world_size
        if trainer.global_step >= self._logged_at + self.every_n_steps:
            assert isinstance(pl_module, FlowModule)
            self._log(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pause the timing of training steps during validation."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock, so that a validation does not look like slow steps."""
        self.skip(time.perf_counter() - self._paused)

    def skip(self, seconds: float) -> None:
        """Leave seconds out of the speed of training, which went into something else."""
        if self._active:
            self._since += seconds

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Release the stored sums of losses."""
        self._active = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the stored sums of losses."""
        self._active = False

    def _log(self, trainer: pl.Trainer, module: FlowModule) -> None:
        norms = {
            "train/grad_norm": self._grad_norm,
            "train/weight_norm": _norm(p.detach() for p in module.parameters() if p.requires_grad),
            "train/ema1_norm": _norm(module.ema_params1.values()),
            "train/ema2_norm": _norm(module.ema_params2.values()),
        }
        # Averages may be on another device than the weights.
        present = {name: norm.to(self._sums.device) for name, norm in norms.items() if norm is not None}
        # One transfer for all values; it waits for the device, so it comes before the clock.
        numbers = torch.cat([torch.stack(list(present.values())), self._sums.flatten()]).tolist()
        rate = self._images / (time.perf_counter() - self._since)
        point = dict(zip(present, numbers, strict=False))
        sums, counts = numbers[len(present) : -self.num_bins], numbers[-self.num_bins :]
        for i, (total, count) in enumerate(zip(sums, counts, strict=True)):
            if count:
                point[f"loss_at/t{i / self.num_bins:.1f}-{(i + 1) / self.num_bins:.1f}"] = total / count
        point |= {"perf/images_per_sec": rate, "perf/memory_gib": peak_memory_gib(module.device)}
        if self._best_rate is not None:
            point["perf/mfu"] = rate / self._best_rate
        for logger in trainer.loggers:
            logger.log_metrics(point, step=trainer.global_step)
        self._sums.zero_()
        self._grad_norm = None
        self._logged_at = trainer.global_step
        self._images, self._since = 0, time.perf_counter()


@contextmanager
def paused_watches(trainer: pl.Trainer) -> Iterator[None]:
    """Leave the time of the ``with`` block out of the training speed that every :class:`TrainingWatch` logs.

    Args:
        trainer: Trainer with the callbacks.
    """
    started = time.perf_counter()
    try:
        yield
    finally:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TrainingWatch):
                callback.skip(time.perf_counter() - started)


def _norm(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """Return the norm over all elements of tensors, float32, 0-d; None without tensors."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.nn.utils.get_total_norm(present).float() if present else None
