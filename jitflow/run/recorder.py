"""Callback that writes a run's folder when training starts, and the outcome when it ends."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from jitflow.checkpoint.recipe import RECIPE_ENTRY
from jitflow.errors import WriteError
from jitflow.io.files import writable_folder
from jitflow.io.folder_lock import FolderLock
from jitflow.run.describe import best_score
from jitflow.run.folder import RunRecord, RunState, outcome_recorded, write_run_folder, write_run_record

log = logging.getLogger(__name__)


class RunRecorder(pl.Callback):
    """Store the recipe in a run's folder and in every checkpoint, and the run's progress in ``run.json``.

    The folder is written right before the first step, after checkpoint and data were restored: a training that fails
    earlier leaves the folder and the record of the run in it unchanged.

    Args:
        run_dir: The run's folder.
        record: Content of ``run.json``; state and progress are filled in.
        lock: Lock of the folder; None if another process of this training holds it.
    """

    def __init__(self, run_dir: Path, record: RunRecord, lock: FolderLock | None = None) -> None:
        self._run_dir = run_dir
        self._record = record
        self._lock = lock
        self.has_started = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the settings, environment and record of the run."""
        self.has_started = True
        if trainer.is_global_zero:
            recipe = self._record.recipe
            write_run_folder(writable_folder(self._run_dir), recipe, seed=recipe["seed_everything"])
            self._write(trainer, "running")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Stop the training if another machine has taken its folder over."""
        if self._lock is not None:
            self._lock.check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the recipe to the checkpoint, so that the run can be resumed from this file alone."""
        checkpoint[RECIPE_ENTRY] = self._record.recipe

    def end_recorded(self, trainer: pl.Trainer) -> AbstractContextManager[None]:
        """Record the outcome of the training inside the block, also after an exception.

        Args:
            trainer: Trainer that runs in the block.
        """

        def write(state: RunState, detail: str) -> None:
            is_ours = self._lock is None or not self._lock.is_lost
            if self.has_started and trainer.is_global_zero and is_ours:
                try:
                    self._write(trainer, state, detail)
                except WriteError as error:
                    if state == "finished":
                        raise
                    # The reason of the end must not be hidden by this one.
                    log.warning("%s; the run is recorded as running", error)
                if state == "finished":
                    found = best_score(self._run_dir, self._run_dir, self._record.application)
                    self._record = replace(self._record, score=found)
                    self._write(trainer, state)

        return outcome_recorded(write)

    def _write(self, trainer: pl.Trainer, state: RunState, detail: str = "") -> None:
        progress: Any = trainer.fit_loop.epoch_progress.current
        self._record = replace(
            self._record,
            state=state,
            detail=detail,
            epochs=int(progress.processed),
            steps=trainer.global_step,
        )
        write_run_record(self._run_dir, self._record)
