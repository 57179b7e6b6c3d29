"""Checkpoints that are whole or not there."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from jitflow.errors import ConfigError
from jitflow.files import atomic_path

log = logging.getLogger(__name__)

LAST_NAME = "checkpoint-last.pth"


class JiTModelCheckpoint(Checkpoint):
    """Save the last state regularly, milestones for good, and always the end of the training.

    Ctrl-C (in a run of one process) saves after the running optimiser step and ends the run; a second one ends it at
    once. ``checkpoint-last.pth`` is replaced each time; ``checkpoint-{epoch}.pth`` stays; ``last.ckpt`` is a link to
    the former. All are Lightning checkpoints. A file is written beside its name and renamed when it is whole,
    so that a crash during saving leaves the file of before.

    Args:
        dirpath: Folder of the checkpoints.
        save_last_freq: Epochs between two saves of the last state.
        save_milestone_freq: Epochs between two milestones.
        save_last_every_n_steps: Optimiser steps between two saves of the last state; none by default.

    Raises:
        ConfigError: If a frequency is below 1.
    """

    def __init__(
        self,
        dirpath: str | Path = "./checkpoints",
        save_last_freq: int = 5,
        save_milestone_freq: int = 100,
        *,
        save_last_every_n_steps: int | None = None,
    ) -> None:
        given = {
            "save_last_freq": save_last_freq,
            "save_milestone_freq": save_milestone_freq,
            "save_last_every_n_steps": save_last_every_n_steps,
        }
        for name, value in given.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        self.dirpath = Path(dirpath)
        self.save_last_freq = save_last_freq
        self.save_milestone_freq = save_milestone_freq
        self.save_last_every_n_steps = save_last_every_n_steps
        self._saved_at_step = -1
        self._steps_seen = 0
        self._interrupted = False
        self._handler: Any = None

    @property
    def last_path(self) -> Path:
        """Where the last state is."""
        return self.dirpath / LAST_NAME

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear away what a crash left half-written, and listen to Ctrl-C."""
        self._steps_seen, self._interrupted = trainer.global_step, False
        if trainer.is_global_zero:
            for leftover in self.dirpath.glob(".checkpoint-*.pth.*.pth"):
                leftover.unlink()
        # Several processes would notice it at different steps, and saving needs all of them at the same one.
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, signum: int, frame: Any) -> None:
        self._interrupted = True
        self._restore_handler()
        log.info("interrupted: saving after this step; again to quit at once")

    def _restore_handler(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        self._restore_handler()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give Ctrl-C back."""
        self._restore_handler()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last state every so many optimiser steps."""
        stepped, self._steps_seen = trainer.global_step != self._steps_seen, trainer.global_step
        if self._interrupted and stepped:
            self._save_last(trainer)
            log.info("interrupted at step %d; saved %s", trainer.global_step, self.last_path)
            raise KeyboardInterrupt
        every = self.save_last_every_n_steps
        if every and trainer.global_step % every == 0 and trainer.global_step != self._saved_at_step:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state and milestones every so many epochs."""
        epochs_done = trainer.current_epoch + 1
        if epochs_done % self.save_last_freq == 0:
            self._save_last(trainer)
        if epochs_done % self.save_milestone_freq == 0:
            self._save(trainer, self.dirpath / f"checkpoint-{trainer.current_epoch}.pth")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the training, whatever the frequencies."""
        self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._save(trainer, self.last_path)
        self._saved_at_step = trainer.global_step
        if trainer.is_global_zero:
            link = self.dirpath / "last.ckpt"
            if not link.is_symlink() and not link.exists():
                link.symlink_to(LAST_NAME)

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        # Every process takes part in collecting the state, the first one writes.
        if trainer.is_global_zero:
            with atomic_path(path) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)
        else:
            trainer.save_checkpoint(path, weights_only=False)
