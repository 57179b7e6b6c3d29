"""Samples of a model at intervals of its training, for TensorBoard and the report of the run."""

from __future__ import annotations

import logging
import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from jitflow import pictures
from jitflow.applications import load_object
from jitflow.callbacks.progress import total_steps
from jitflow.callbacks.samples import as_flow_module, undisturbed
from jitflow.callbacks.watch import paused_watches
from jitflow.core.solver import get_solver
from jitflow.errors import ConfigError, JitflowError, check_count
from jitflow.io.files import write_json
from jitflow.model import Model
from jitflow.training.module import FlowModule
from jitflow.training.samples import Samples

log = logging.getLogger(__name__)
FOLDER_NAME = "training_pictures"
# More pictures than this show no more progress.
_MOST_DRAWINGS = 24
_MOST_STEPS = 25
_MOST_SAMPLES = 64
# Backward and forward pass of a training step, in forward passes.
_TRAINING_OVER_FORWARD = 3
# What an evaluation costs whatever its number of samples, in samples: seven for a network of 0.7M parameters on a CPU.
_OVERHEAD = 8


class TrainingPictures(pl.Callback):
    """Draw samples of the same seeds at intervals of a training, without changing its losses.

    The interval follows from the settings alone, so that a resumed training draws at the same steps: drawing takes
    about ``share`` of the time, counted in evaluations of the network. At most 24 drawings are spread evenly over a
    training, the last one at its end; a training that is shorter than one interval has none. The files are
    ``step{N:07d}.png`` and ``step{N:07d}.json`` (seeds, captions, texts, sampling settings); TensorBoard gets the same
    as ``pictures``. Samples come from the first average of the weights, with the model's own settings but at most 25
    solver steps.

    Only the first process draws. With sharded weights, which one process does not have, and for a model that cannot be
    sampled yet, such as latents without their autoencoder, one line says that there are no pictures.

    Args:
        dirpath: Folder of the pictures.
        share: Share of the training time, in ``[0, 0.5]``; 0 draws nothing.
        num: Number of samples, shared among the first four classes or users, each of which has at least one.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, dirpath: str | Path, share: float = 0.02, num: int = 4) -> None:
        if not 0 <= share <= 0.5:
            raise ConfigError(f"share, of the time that pictures take, must be between 0 and 0.5; got {share}")
        check_count("num", num, most=_MOST_SAMPLES)
        self.dirpath = Path(dirpath)
        self.share = share
        self.num = num
        self._arguments: dict[str, Any] | None = None
        self._steps_seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the samples and the interval, and log them."""
        self._arguments = None
        self._steps_seen = trainer.global_step
        self._started, self._seconds, self._num_drawn = time.perf_counter(), 0.0, 0
        if self.share == 0 or not trainer.is_global_zero:
            return
        module = as_flow_module(pl_module, self)
        try:
            arguments, num = self._choose_samples(trainer, module)
        except JitflowError as error:
            log.info("no pictures of the training: %s", error)
            return
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", 1)
        cost = drawing_cost(module, num, batch_size * trainer.accumulate_grad_batches)
        self._every_n_steps = max(1, math.ceil(cost / self.share))
        self._total = total_steps(trainer)
        self._num_drawings = num_drawings(self._total, self._every_n_steps)
        if self._num_drawings == 0:
            log.info("no pictures of the training: it is shorter than their interval, %d steps", self._every_n_steps)
            return
        self._arguments = {**arguments, "batch_size": min(num, batch_size)}
        every = self._total / self._num_drawings if self._total else self._every_n_steps
        log.info(
            "pictures: %d samples every %.0f steps, about %.2g %% of the time, in %s (--pictures.share 0 for none)",
            *(num, every, 100 * cost / every, self.dirpath),
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if the batch ended an optimiser step at which a picture is due."""
        step = trainer.global_step
        if self._arguments is None or step == self._steps_seen:
            return
        self._steps_seen = step
        if is_due(step, self._total, self._num_drawings, self._every_n_steps):
            with paused_watches(trainer):
                started = time.perf_counter()
                self._draw(trainer, as_flow_module(pl_module, self), self._arguments)
                self._seconds += time.perf_counter() - started

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share of the time that the drawings took."""
        if self._num_drawn:
            share = self._seconds / (time.perf_counter() - self._started)
            log.info("pictures: drawn %d times, in %.1f %% of the time", self._num_drawn, 100 * share)

    def _choose_samples(self, trainer: pl.Trainer, module: FlowModule) -> tuple[dict[str, Any], int]:
        """Return the arguments of sampling and the number of samples; raise ConfigError if none can be drawn."""
        # Strategies with sharded weights derive from DDP's.
        if not isinstance(trainer.strategy, SingleDeviceStrategy) and type(trainer.strategy) is not DDPStrategy:
            raise ConfigError(f"with {type(trainer.strategy).__name__} one process may not have all weights")
        subject = Model(module).application.subject
        first = load_object(subject.first)(module)
        asked = Model(module).ask(**{subject.word: first})
        each = max(1, self.num // len(asked))
        steps = min(_MOST_STEPS, module.num_sampling_steps)
        return {subject.word: first, "num": each, "steps": steps}, each * len(asked)

    def _draw(self, trainer: pl.Trainer, module: FlowModule, arguments: dict[str, Any]) -> None:
        step = trainer.global_step
        try:
            with undisturbed(module), _without_compilation():
                drawn = Model(module).sample(**arguments, ema=1 if module.ema_params1 else 0)
            sheet = drawn.sheet()
            name = f"step{step:07d}"
            pictures.save_image(sheet, self.dirpath / f"{name}.png")
            # Last, since the record says that the picture is complete.
            write_json(self.dirpath / f"{name}.json", _record(drawn, step))
        except Exception as error:  # noqa: BLE001
            # A picture must never end a training.
            log.warning("no picture at step %d: %s: %s", step, type(error).__name__, error)
            if not isinstance(error, JitflowError):
                self._arguments = None
            return
        self._num_drawn += 1
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                colour = np.asarray(sheet.convert("RGB"))
                logger.experiment.add_image("pictures", colour, step, dataformats="HWC")
                if drawn.texts:
                    logger.experiment.add_text("pictures", "\n\n".join(drawn.texts), step)


def drawing_cost(module: FlowModule, num: int, batch_size: int) -> float:
    """Return the cost of drawing samples in optimiser steps, counted in evaluations of the network.

    A GPU that waits for launches takes as long for few samples as for many; there an evaluation counts as a whole step.

    Args:
        module: The model.
        num: Number of samples.
        batch_size: Training samples of one process in an optimiser step.
    """
    steps = min(_MOST_STEPS, module.num_sampling_steps)
    evaluations = get_solver(module.sampling_method).num_evaluations(steps)
    passes = 2 if module.cfg_scale != 1 else 1
    by_samples = evaluations * (passes * num + _OVERHEAD) / (_TRAINING_OVER_FORWARD * batch_size)
    return max(by_samples, float(evaluations)) if module.device.type == "cuda" else by_samples


def num_drawings(total: int | None, every_n_steps: int) -> int:
    """Return the number of drawings in a training: one an interval, at most 24.

    Args:
        total: Optimiser steps of the training; None if it has no end, where drawings go on.
        every_n_steps: Shortest interval, in optimiser steps.
    """
    return _MOST_DRAWINGS if total is None else min(_MOST_DRAWINGS, total // every_n_steps)


def is_due(step: int, total: int | None, num: int, every_n_steps: int) -> bool:
    """Whether a picture is due after an optimiser step; the last one is due at the end of the training.

    Args:
        step: Optimiser steps done, from 1.
        total: Optimiser steps of the training; None if it has no end.
        num: Number of drawings in the training.
        every_n_steps: Interval of a training without an end.
    """
    if total is None:
        return step % every_n_steps == 0
    return step * num // total > (step - 1) * num // total


def _record(drawn: Samples, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "seeds": drawn.seeds,
        "captions": drawn.captions,
        "texts": drawn.texts,
        "settings": drawn.settings,
    }


def _without_compilation() -> AbstractContextManager[Any]:
    """Run compiled networks uncompiled: another batch size would be compiled first."""
    # Nothing is compiled before this module is imported, which takes seconds.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
