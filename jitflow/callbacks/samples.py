"""Sample grids during training, without changing the state of the training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from jitflow import pictures
from jitflow.core.seeding import use_seeds
from jitflow.errors import ConfigError
from jitflow.training.asked_conditions import ask_for_classes
from jitflow.training.module import FlowModule
from jitflow.training.samples import drawable_captions

# Small enough for a device that also holds a training.
_BATCH_SIZE = 32
_MAX_CLASSES = 8


class SampleGridCallback(pl.Callback):
    """Save a grid of samples at intervals, always of the same labels and noise, so that progress is visible.

    The grid has one row for each label, with the class's name above it. The files are ``samples_epoch{E:04d}.png``,
    where E counts the finished epochs; TensorBoard gets the same grid as ``samples``.

    Args:
        every_n_epochs: Epochs between two grids; one more is drawn at the end of the training.
        labels: Classes to draw; None takes up to the first eight.
        per_class: Images of each class.
        seed: Seed of the first image; the others follow it.
        dirpath: Folder of the grids.
        use_ema: Sample from the first average of the weights.

    Raises:
        ConfigError: If a number is below 1, or, before the training starts, if a label does not exist.
    """

    def __init__(
        self,
        every_n_epochs: int = 10,
        labels: Sequence[int] | None = None,
        per_class: int = 4,
        seed: int = 0,
        dirpath: str | Path = "./samples",
        *,
        use_ema: bool = True,
    ) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("per_class", per_class)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        if labels is not None and not labels:
            raise ConfigError("labels must not be empty; leave them out for the first classes")
        self.every_n_epochs = every_n_epochs
        self.labels = None if labels is None else [int(label) for label in labels]
        self.per_class = per_class
        self.seed = seed
        self.dirpath = Path(dirpath)
        self.use_ema = use_ema
        self._epochs_done = 0
        self._drawn_at = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check labels and guidance against the model."""
        if stage != "fit":
            return
        self._epochs_done = self._drawn_at = 0
        module = as_flow_module(pl_module, self)
        wrong = [label for label in self._labels(module) if not 0 <= label <= module.num_classes]
        if wrong:
            raise ConfigError(f"labels: {wrong[0]} is out of range, the model has {module.num_classes} classes")
        module.check_guidance()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a grid of samples every ``every_n_epochs`` epochs, and after the last."""
        self._epochs_done = trainer.current_epoch + 1
        if self._epochs_done % self.every_n_epochs == 0 or is_last_epoch(trainer):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a final grid of samples if the last epoch was not known to be the last."""
        if self._epochs_done != self._drawn_at:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._drawn_at = self._epochs_done
        # Only the first process draws, and the others do not wait for it here: generate() calls the bare
        # module, not the one wrapped for parallel training, and nothing below logs through the module. A
        # collective call in this branch would wait forever for processes that never reach it.
        if not trainer.is_global_zero:
            return
        module = as_flow_module(pl_module, self)
        labels = torch.tensor(self._labels(module)).repeat_interleave(self.per_class)
        seeds = range(self.seed, self.seed + len(labels))
        with undisturbed(module):
            pixels = torch.cat(
                [
                    module.codec.decode(
                        draw_samples(trainer, module, part, seeds[i : i + _BATCH_SIZE], use_ema=self.use_ema)
                    ).cpu()
                    for i, part in zip(range(0, len(labels), _BATCH_SIZE), labels.split(_BATCH_SIZE), strict=True)
                ]
            )
        asked = ask_for_classes(module, labels=labels.tolist())
        sheet = pictures.grid(
            pixels.numpy(),
            columns=self.per_class,
            scale=pictures.display_scale(pixels.shape[-1]),
            captions=drawable_captions(asked.captions, asked.labels),
        )
        pictures.save_image(sheet, self.dirpath / f"samples_epoch{self._epochs_done:04d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                colour = np.asarray(sheet.convert("RGB"))
                logger.experiment.add_image("samples", colour, trainer.global_step, dataformats="HWC")

    def _labels(self, module: FlowModule) -> list[int]:
        return list(range(min(module.num_classes, _MAX_CLASSES))) if self.labels is None else self.labels


def draw_samples(
    trainer: pl.Trainer, module: FlowModule, labels: Tensor, seeds: Sequence[int], *, use_ema: bool
) -> Tensor:
    """Generate one sample for each label, in the precision of the training.

    Args:
        trainer: Determines the precision: with mixed precision the network runs under autocast, as in a step.
        module: The model; only its ``generate`` is called, so that an override takes effect.
        labels: Classes, shape ``(B,)``, int64.
        seeds: One seed for each, in ``[0, 2**63)``.
        use_ema: Use the first average of the weights.

    Returns:
        Samples in the model space, shape ``(B, C, H, W)``.
    """
    precision = trainer.precision_plugin
    autocast = precision.autocast_context_manager() if isinstance(precision, MixedPrecision) else nullcontext()
    with torch.no_grad(), use_seeds(seeds), autocast:
        return module.generate(labels.to(module.device), use_ema=use_ema)


@contextmanager
def undisturbed(module: pl.LightningModule) -> Iterator[None]:
    """Restore the state of the training after the ``with`` block, even if the block fails.

    It restores the storage of every parameter, the training mode of every submodule, and the random states of torch,
    NumPy and Python. Inside, the module is in evaluation mode. Nothing is copied: writes into the weights themselves,
    rather than exchanging them as ``ema_weights`` does, are not undone.

    Args:
        module: The module in training.
    """
    modes = [(part, part.training) for part in module.modules()]
    weights = [(parameter, parameter.data) for parameter in module.parameters()]
    state_python, state_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            module.eval()
            yield
        finally:
            for parameter, data in weights:
                parameter.data = data
            for part, training in modes:
                part.training = training
            random.setstate(state_python)
            np.random.set_state(state_numpy)


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether the epoch that ends now is known to be the last; an epoch stopped early is not."""
    max_epochs, max_steps = trainer.max_epochs, trainer.max_steps
    return (max_epochs is not None and 0 < max_epochs <= trainer.current_epoch + 1) or (
        0 < max_steps <= trainer.global_step
    )


def as_flow_module(module: pl.LightningModule, callback: Any) -> FlowModule:
    """Return the module as a FlowModule; raise ConfigError, naming the callback, if it is not one."""
    if not isinstance(module, FlowModule):
        raise ConfigError(f"{type(callback).__name__} needs a jitflow module; got {type(module).__name__}")
    return module
