"""Checkpoint callback with atomic writes, checksums and a resumable stop on signals."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from jitflow.callbacks.signals import StopRequest, stop_exception
from jitflow.checkpoint.folder import LAST_NAME, MILESTONE, CheckpointFolder
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import temporary_beside, writable_folder
from jitflow.training.lightning_counters import last_begun_epoch

log = logging.getLogger(__name__)
# Scores of evaluations, which callbacks log at the end of an epoch.
_EVALUATIONS = "eval/"

__all__ = ["LAST_NAME", "JiTModelCheckpoint"]


class JiTModelCheckpoint(Checkpoint):
    """Save checkpoints: the last state at intervals, permanent milestones, the best state, and the end of training.

    Ctrl-C, SIGTERM and SIGUSR1 save after the current optimiser step and end the run with status 130, 143 or 138; a
    second signal ends it at once. ``checkpoint-last.pth`` is replaced each time, and the previous one is kept as
    ``checkpoint-prev.pth``; milestones are ``checkpoint-{epoch}.pth``; ``last.ckpt`` links to the last state. All are
    Lightning checkpoints. A file is written under a temporary name, flushed to disk, recorded with its checksum in
    ``manifest.json`` and renamed, while training continues. A crash during saving leaves the previous file intact; so
    does a full disk, which is logged, and raises an error if the end of the training cannot be saved.

    Args:
        dirpath: Folder of the checkpoints.
        save_last_freq: Epochs between two saves of the last state.
        save_milestone_freq: Epochs between two milestones; 0 saves none.
        save_last_every_n_steps: Optimiser steps between two saves of the last state; none by default.
        best_name: File of the state with the lowest ``monitor`` so far, such as ``best.ckpt``; none by default. The
            best value survives a resume.
        monitor: Logged value that is compared after each validation; after each epoch if it begins with ``eval/``.
        milestone_name: Name of milestones; ``{epoch}`` is the last finished epoch counted from 0, ``{done}`` the
            number of finished epochs.
        keep_milestones: Number of newest milestones to keep; all by default.
        keep_previous: Keep the second-last state, to resume from if the last one is damaged on disk.

    Raises:
        ConfigError: If a frequency or number is below 1.
    """

    def __init__(
        self,
        dirpath: str | Path = "./checkpoints",
        save_last_freq: int = 5,
        save_milestone_freq: int = 100,
        *,
        save_last_every_n_steps: int | None = None,
        best_name: str | None = None,
        monitor: str = "val/loss",
        milestone_name: str = "checkpoint-{epoch}.pth",
        keep_milestones: int | None = None,
        keep_previous: bool = True,
    ) -> None:
        given = {
            "save_last_freq": save_last_freq,
            "save_milestone_freq": save_milestone_freq,
            "save_last_every_n_steps": save_last_every_n_steps,
            "keep_milestones": keep_milestones,
        }
        for name, value in given.items():
            least = 0 if name == "save_milestone_freq" else 1
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}; got {value}")
        self.dirpath = Path(dirpath)
        self.save_last_freq = save_last_freq
        self.save_milestone_freq = save_milestone_freq
        self.save_last_every_n_steps = save_last_every_n_steps
        self.best_name = best_name
        self.monitor = monitor
        self.milestone_name = milestone_name
        self.best_value = math.inf
        self.keep_milestones = keep_milestones
        self.keep_previous = keep_previous
        self.num_failed_saves = 0
        self._saved_at_step = -1
        self._steps_seen = 0
        self._logs_are_due = False
        self._last_failure: OSError | None = None
        self._stop = StopRequest()
        self._folder = CheckpointFolder(self.dirpath)
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    @property
    def last_path(self) -> Path:
        """Path of the last checkpoint."""
        return self.dirpath / LAST_NAME

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove partly written files of a crash, and install signal handlers."""
        self._steps_seen, self._last_failure, self.num_failed_saves = trainer.global_step, None, 0
        if trainer.is_global_zero:
            writable_folder(self.dirpath)
            for pattern in (".*.pth.*.pth", ".*.ckpt.*.ckpt", ".manifest.json.*.json"):
                for leftover in self.dirpath.glob(pattern):
                    leftover.unlink()
            self._folder = CheckpointFolder(self.dirpath)
            self._writer = ThreadPoolExecutor(1, "checkpoint-writer")
        self._stop.listen()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finish saving checkpoints, and restore the signal handlers."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Finish saving checkpoints, and restore the signal handlers."""
        self._close()

    def _close(self) -> None:
        self._finish_saving()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None
        self._stop.release()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last state every ``save_last_every_n_steps`` optimiser steps, and when asked to stop.

        It also saves before the end of an epoch that will be saved: validation and evaluation may fail or run out of
        memory, and then only they must be repeated.
        """
        stepped, self._steps_seen = trainer.global_step != self._steps_seen, trainer.global_step
        if not stepped:
            return
        signal_number = self._stop.received()
        every = self.save_last_every_n_steps
        due = bool(every) and trainer.global_step % (every or 1) == 0
        due = due or (trainer.is_last_batch and self._is_saved_after(trainer.current_epoch + 1))
        if (signal_number or due) and trainer.global_step != self._saved_at_step:
            self._save_last(trainer)
        if signal_number:
            self._stop_training(signal_number, trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop a possibly long validation when asked to; the resumed run begins with this validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and (signal_number := self._stop.received()):
            if trainer.global_step != self._saved_at_step:
                self._save_last(trainer)
            self._stop_training(signal_number, trainer)

    def _stop_training(self, signal_number: int, trainer: pl.Trainer) -> None:
        self._finish_saving()
        if self._last_failure is None:
            log.info("stopped at step %d; %s holds step %d", trainer.global_step, self.last_path, self._saved_at_step)
        # Lightning kills all processes if one that it started exits with a non-zero status.
        raise stop_exception(signal_number) if trainer.is_global_zero else SystemExit(0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state and milestones at their intervals of epochs, and a state with the best evaluation."""
        value = trainer.callback_metrics.get(self.monitor)
        # An evaluation need not follow every epoch.
        if self.monitor.startswith(_EVALUATIONS) and value is not None:
            self._save_if_best(trainer, value)
        epochs_done = trainer.current_epoch + 1
        if epochs_done % self.save_last_freq == 0:
            self._save_last(trainer)
        if self._is_milestone(epochs_done):
            name = self.milestone_name.format(epoch=trainer.current_epoch, done=epochs_done)
            self._save(trainer, self.dirpath / name, MILESTONE)

    def _is_saved_after(self, epochs_done: int) -> bool:
        return epochs_done % self.save_last_freq == 0 or self._is_milestone(epochs_done)

    def _is_milestone(self, epochs_done: int) -> bool:
        return self.save_milestone_freq > 0 and epochs_done % self.save_milestone_freq == 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best state if the monitored value has improved."""
        is_other = self.best_name is None or self.monitor.startswith(_EVALUATIONS)
        if is_other or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            raise ConfigError(f"{self.monitor} is not logged, so there is no best state; is there validation data?")
        self._save_if_best(trainer, value)

    def _save_if_best(self, trainer: pl.Trainer, value: Tensor) -> None:
        if self.best_name is not None and float(value) < self.best_value:
            self.best_value = float(value)
            self._save(trainer, self.dirpath / self.best_name, "best")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the checkpoint's ``epoch`` to the last epoch that was begun, counted from 0."""
        checkpoint["epoch"] = last_begun_epoch(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best monitored value so far, for the checkpoint."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best monitored value, so that a resumed run keeps a better earlier checkpoint."""
        self.best_value = float(state_dict.get("best_value", math.inf))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state at the end of training, whatever the intervals.

        Raises:
            CheckpointError: If the end could not be saved.
        """
        self._save_last(trainer)
        self._finish_saving()
        if self._last_failure is not None:
            raise CheckpointError(
                f"the end of the training could not be saved into {self.dirpath} ({_reason(self._last_failure)}); "
                "free disk space or repair the folder, and resume from the last complete checkpoint"
            )
        if self.num_failed_saves:
            log.warning("%d checkpoints could not be saved during this training", self.num_failed_saves)

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._save(trainer, self.last_path, "last")
        self._saved_at_step = trainer.global_step

    def _save(self, trainer: pl.Trainer, path: Path, kind: str) -> None:
        """Write the state to a temporary file, which the writer thread renames once it is on disk."""
        self._finish_saving()
        # Collecting the state is a collective call; the first process writes.
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path, weights_only=False)
            return
        step, temporary = trainer.global_step, None
        self._flush_logs(trainer)
        self._logs_are_due = True
        try:
            temporary = temporary_beside(path)
            with _direct_checkpoint_io(trainer):
                trainer.save_checkpoint(temporary, weights_only=False)
            assert self._writer is not None, "saving belongs to training"
            self._pending = self._writer.submit(self._commit_file, temporary, path.name, kind, step)
            temporary = None
        except OSError as error:
            self._record_failure(path, step, error)
            # Barrier: the other processes wait here.
            trainer.strategy.barrier("Trainer.save_checkpoint")
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def _flush_logs(self, trainer: pl.Trainer) -> None:
        """Flush all loggers, so that curves reach as far as the checkpoint.

        Lightning passes on the values of a step after the hooks of that step; hence another flush in the next step.
        """
        for logger in trainer.loggers:
            try:
                logger.save()
            except OSError as error:
                log.warning("the logs could not be written (%s); training continues", _reason(error))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Flush the logs of the step of the last save."""
        if self._logs_are_due:
            self._logs_are_due = False
            self._flush_logs(trainer)

    def _commit_file(self, temporary: Path, name: str, kind: str, step: int) -> None:
        """Commit a checkpoint file and remove outdated ones; runs in the writer thread."""
        try:
            self._folder.commit(
                temporary, name, kind=kind, step=step, keep_previous=self.keep_previous and name == LAST_NAME
            )
            link = self.dirpath / "last.ckpt"
            if name == LAST_NAME and not link.is_symlink() and not link.exists():
                link.symlink_to(LAST_NAME)
            if kind == MILESTONE and self.keep_milestones is not None:
                outdated = self._folder.names_of_kind(MILESTONE)[: -self.keep_milestones]
                if outdated:
                    self._folder.remove(outdated)
            self._last_failure = None
        except OSError as error:
            self._record_failure(self.dirpath / name, step, error)
        finally:
            temporary.unlink(missing_ok=True)

    def _record_failure(self, path: Path, step: int, error: OSError) -> None:
        self.num_failed_saves += 1
        self._last_failure = error
        log.warning(
            "step %d could not be saved as %s (%s; %d failed so far); training continues, and earlier checkpoints "
            "are intact",
            step,
            path,
            _reason(error),
            self.num_failed_saves,
        )

    def _finish_saving(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()


class _DirectCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO that writes directly to the file; Lightning's copies the checkpoint to memory and /tmp first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # After a failed write, torch still closes the archive and raises an error about its size.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


@contextmanager
def _direct_checkpoint_io(trainer: pl.Trainer) -> Iterator[None]:
    """Let a trainer write checkpoints directly to a local file, unless it has its own checkpoint IO."""
    strategy = trainer.strategy
    own = strategy.checkpoint_io
    if type(own) is TorchCheckpointIO:
        strategy.checkpoint_io = _DirectCheckpointIO()
    try:
        yield
    finally:
        strategy.checkpoint_io = own


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
