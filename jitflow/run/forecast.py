"""Forecast the memory and the time of a training before its first step."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl

from jitflow.callbacks.ema import EMACallback
from jitflow.data.base import SeededLoader
from jitflow.io.units import describe_time
from jitflow.run.course import Course
from jitflow.run.memory_fit import MemoryFit, fit_memory
from jitflow.run.step_time import time_batch
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
LARGE_STEP = 1e9
"""Parameters times samples of a step, from which a step takes seconds on a CPU, as the estimate of the memory does."""


def forecast_memory(module: FlowModule, data: Any, trainer: pl.Trainer) -> MemoryFit:
    """Estimate the memory of a training; see :func:`jitflow.run.memory_fit.fit_memory`.

    Args:
        module: The module.
        data: The data module.
        trainer: The trainer, which determines devices, precision, and where the averages are.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return fit_memory(
        module,
        module.loss_terms.pass_size(getattr(data, "batch_size", None)),
        trainer.strategy.root_device,
        precision=str(trainer.precision),
        num_devices=trainer.num_devices,
        ema_on_cpu=any(isinstance(callback, EMACallback) and callback.on_cpu for callback in callbacks),
    )


def log_forecast(module: FlowModule, data: Any, trainer: pl.Trainer, course: Course) -> None:
    """Log the memory and the time of a training with large steps, and a warning if it does not fit.

    The estimate takes seconds, which a training with small steps, perhaps a short one, shall not wait. The time is from
    one sample, which costs little beside a step; arguments as in :func:`forecast_lines`.
    """
    work = sum(p.numel() for p in module.parameters()) * (getattr(data, "batch_size", None) or 1)
    if trainer.is_global_zero and work >= LARGE_STEP:
        fit = forecast_memory(module, data, trainer)
        log.info("%s", fit.describe())
        log.info("time: %s", _describe_time(module, data, trainer, course, fit, budget_sec=0))
        warning = fit.warning()
        if warning is not None:
            log.warning("warning: %s", warning)


def forecast_lines(module: FlowModule, data: Any, trainer: pl.Trainer, course: Course) -> dict[str, str]:
    """Describe the memory and the time of a training; arguments as above.

    Args:
        module: The module; it does not change.
        data: The data module, from which a few samples are read.
        trainer: The trainer.
        course: Length of the training.

    Returns:
        The lines ``needs`` and ``time``, and ``warning`` if the training does not fit.
    """
    fit = forecast_memory(module, data, trainer)
    lines = {"needs": fit.describe(), "time": _describe_time(module, data, trainer, course, fit, budget_sec=10)}
    warning = fit.warning()
    return lines if warning is None else {**lines, "warning": warning}


def _describe_time(
    module: FlowModule, data: Any, trainer: pl.Trainer, course: Course, fit: MemoryFit, *, budget_sec: float
) -> str:
    # A class of another package may need its trainer in a step, and there is none yet.
    is_own = all(type(part).__module__.partition(".")[0] == "jitflow" for part in (module, data))
    loader = data.train_dataloader() if is_own and trainer.strategy.root_device.type == "cpu" else None
    if not isinstance(loader, SeededLoader):
        return "logged after the first steps"
    room = loader.batch_size or 1
    if fit.largest_pass is not None:
        room = min(room, fit.largest_pass)
    if not room:
        return "not timed, since not even one sample fits"
    seconds, num = time_batch(module, loader, trainer.precision_plugin.forward_context, room, budget_sec)
    # Processes on one machine share its cores.
    step_sec = seconds * trainer.accumulate_grad_batches * trainer.num_devices
    return f"{describe_time(step_sec, course.num_steps)}; timed with a batch of {num}, without validation and saving"
