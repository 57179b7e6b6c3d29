"""Checkpoints that are whole or not there."""

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

from jitflow.callbacks.signals import StopRequest, stop_exception
from jitflow.checkpoint.folder import LAST_NAME, MILESTONE, CheckpointFolder
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import temporary_beside, writable_folder
from jitflow.training.lightning_counters import last_begun_epoch

log = logging.getLogger(__name__)

__all__ = ["LAST_NAME", "JiTModelCheckpoint"]


class JiTModelCheckpoint(Checkpoint):
    """Save the last state regularly, milestones for good, the best, and always the end of the training.

    Ctrl-C, SIGTERM and SIGUSR1 save after the running optimiser step and end the run, with status 130, 143 or 138; a
    second one ends it at once. ``checkpoint-last.pth`` is replaced each time, and what it was before stays as
    ``checkpoint-prev.pth``; ``checkpoint-{epoch}.pth`` stays; ``last.ckpt`` is a link to the first. All are Lightning
    checkpoints. A file is written beside its name, written down with its checksum in ``manifest.json``, and renamed
    when it is on the disk, while the training goes on. A crash during saving leaves the file of before; so does a full
    disk, which is reported, and is an error at the end if the end could not be saved.

    Args:
        dirpath: Folder of the checkpoints.
        save_last_freq: Epochs between two saves of the last state.
        save_milestone_freq: Epochs between two milestones.
        save_last_every_n_steps: Optimiser steps between two saves of the last state; none by default.
        best_name: File for the state of the lowest ``monitor`` so far, such as ``best.ckpt``; none by default. It
            survives a resume.
        monitor: Logged value that is compared after each validation.
        milestone_name: Name of milestones; ``{epoch}`` is the last finished epoch counted from 0, ``{done}`` the
            number of finished epochs.
        keep_milestones: How many of the newest milestones to keep; all by default.
        keep_previous: Keep the last but one state, to go on from if the last one is damaged on the disk.

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
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
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
        self._last_failure: OSError | None = None
        self._stop = StopRequest()
        self._folder = CheckpointFolder(self.dirpath)
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    @property
    def last_path(self) -> Path:
        """Where the last state is."""
        return self.dirpath / LAST_NAME

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear away what a crash left half-written, and listen to signals."""
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
        """Finish what is being saved, and give the signals back."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Finish what is being saved, and give the signals back."""
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
        """Save the last state every so many optimiser steps, and when asked to stop.

        Also before the end of an epoch that is to be saved: its validation and evaluation may fail, or be killed for
        the memory they take, and then only they have to be done again.
        """
        stepped, self._steps_seen = trainer.global_step != self._steps_seen, trainer.global_step
        if not stepped:
            return
        asked = self._stop.received()
        every = self.save_last_every_n_steps
        due = bool(every) and trainer.global_step % (every or 1) == 0
        due = due or (trainer.is_last_batch and self._is_saved_after(trainer.current_epoch + 1))
        if (asked or due) and trainer.global_step != self._saved_at_step:
            self._save_last(trainer)
        if asked:
            self._end_by(asked, trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End a validation that may last long when asked to stop; the resumed run begins with it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and (asked := self._stop.received()):
            if trainer.global_step != self._saved_at_step:
                self._save_last(trainer)
            self._end_by(asked, trainer)

    def _end_by(self, asked: int, trainer: pl.Trainer) -> None:
        self._finish_saving()
        if self._last_failure is None:
            log.info("stopped at step %d; %s holds step %d", trainer.global_step, self.last_path, self._saved_at_step)
        # A process that Lightning started and that ends with another status than 0 has all others killed.
        raise stop_exception(asked) if trainer.is_global_zero else SystemExit(0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state and milestones every so many epochs."""
        epochs_done = trainer.current_epoch + 1
        if epochs_done % self.save_last_freq == 0:
            self._save_last(trainer)
        if epochs_done % self.save_milestone_freq == 0:
            name = self.milestone_name.format(epoch=trainer.current_epoch, done=epochs_done)
            self._save(trainer, self.dirpath / name, MILESTONE)

    def _is_saved_after(self, epochs_done: int) -> bool:
        return epochs_done % self.save_last_freq == 0 or epochs_done % self.save_milestone_freq == 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best state."""
        if self.best_name is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            raise ConfigError(f"{self.monitor} is not logged, so there is no best state; is there validation data?")
        if float(value) < self.best_value:
            self.best_value = float(value)
            self._save(trainer, self.dirpath / self.best_name, "best")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let ``epoch`` be the last epoch that was begun, counted from 0."""
        checkpoint["epoch"] = last_begun_epoch(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value, so that a resumed run keeps a better state of before."""
        self.best_value = float(state_dict.get("best_value", math.inf))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the training, whatever the frequencies.

        Raises:
            CheckpointError: If the end could not be saved.
        """
        self._save_last(trainer)
        self._finish_saving()
        if self._last_failure is not None:
            raise CheckpointError(
                f"the end of the training could not be saved into {self.dirpath} ({_reason(self._last_failure)}); "
                "make room or mend the folder, and resume to train the steps since the last whole checkpoint again"
            )
        if self.num_failed_saves:
            log.warning("%d checkpoints could not be saved during this training", self.num_failed_saves)

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._save(trainer, self.last_path, "last")
        self._saved_at_step = trainer.global_step

    def _save(self, trainer: pl.Trainer, path: Path, kind: str) -> None:
        """Write the state beside a name, and let the writer give it the name when it is on the disk."""
        self._finish_saving()
        # Every process takes part in collecting the state, the first one writes.
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path, weights_only=False)
            return
        step, temporary = trainer.global_step, None
        try:
            temporary = temporary_beside(path)
            with _written_directly(trainer):
                trainer.save_checkpoint(temporary, weights_only=False)
            assert self._writer is not None, "saving belongs to training"
            self._pending = self._writer.submit(self._put, temporary, path.name, kind, step)
            temporary = None
        except OSError as error:
            self._failed(path, step, error)
            # Where the other processes wait for this one.
            trainer.strategy.barrier("Trainer.save_checkpoint")
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def _put(self, temporary: Path, name: str, kind: str, step: int) -> None:
        """What the writer does: name a file, and remove those that are not to be kept."""
        try:
            self._folder.put(
                temporary, name, kind=kind, step=step, keep_previous=self.keep_previous and name == LAST_NAME
            )
            link = self.dirpath / "last.ckpt"
            if name == LAST_NAME and not link.is_symlink() and not link.exists():
                link.symlink_to(LAST_NAME)
            if kind == MILESTONE and self.keep_milestones is not None:
                outdated = self._folder.names_of_kind(MILESTONE)[: -self.keep_milestones]
                if outdated:
                    self._folder.forget(outdated)
            self._last_failure = None
        except OSError as error:
            self._failed(self.dirpath / name, step, error)
        finally:
            temporary.unlink(missing_ok=True)

    def _failed(self, path: Path, step: int, error: OSError) -> None:
        self.num_failed_saves += 1
        self._last_failure = error
        log.warning(
            "step %d could not be saved as %s (%s; %d failed so far); training goes on, and the checkpoints of before "
            "are whole",
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
    """Writes into the file: Lightning's copies the whole checkpoint in memory and into the system's /tmp first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # After a write that failed, torch still ends the archive, and tells that this does not fit.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


@contextmanager
def _written_directly(trainer: pl.Trainer) -> Iterator[None]:
    """Let a trainer write straight into a local file, unless it has a way of its own."""
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
