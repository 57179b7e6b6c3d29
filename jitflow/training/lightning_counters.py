"""Workarounds for how Lightning counts epochs, batches and steps: all of them, as checked in Lightning 2.6.6.

1. Counters of a checkpoint, :func:`corrected_counters`. Lightning restores the counters of its loops and infers from
   small differences between them in which hook they were saved (``loops/fit_loop.py``: ``_FitLoop.restarting``,
   ``update_restart_stage`` and ``reset``; ``loops/training_epoch_loop.py``: ``_TrainingEpochLoop.reset`` and
   ``advance``). It infers wrongly in four cases: a finished epoch is entered again, and counted twice, when
   there is ``max_steps``; an epoch that ``max_steps`` cut short counts as over; after a save in the last batch of an
   epoch the end of that epoch is skipped and the next one is never started; a validation that was due is skipped. The
   counters of the next checkpoint are then wrong as well. We write the saved counters in the few forms from which
   Lightning resumes as if uninterrupted. Tests: ``test_data_resume_again.py``,
   ``test_lightning_counters.py::test_without_the_correction_*``.
2. Position in the data, :func:`resume_exactly`. Lightning forgets the state of a loader once
   ``Trainer.estimated_stepping_batches`` has been read (``trainer/trainer.py``; ``setup_data`` of
   ``loops/fit_loop.py`` then builds the loader before the states of the loops are restored, and never again). We
   compute the position from the counters and pass it to the data module before it builds a loader. The state of its
   loaders is empty (:class:`jitflow.data.base.SeededLoader`), and there only because ``_TrainingEpochLoop.reset`` warns
   of loaders without one. Tests: ``test_data_resume.py``; ``test_lightning_counters.py::test_lightning_forgets_*`` and
   ``test_a_loader_without_state_is_warned_of``.
3. Step of the loggers, :func:`correct_logger_step`. ``_TrainingEpochLoop.reset`` restores ``_batches_that_stepped``,
   the step that loggers are given, one too low or too high, by where in the epoch the checkpoint was saved. We set it
   before each batch. Test: ``test_lightning_counters.py::test_without_it_the_loggers_step_is_off``.
4. Epoch of a checkpoint, :func:`last_begun_epoch` and :func:`last_finished_epoch`. ``dump_checkpoint``
   (``trainer/connectors/checkpoint_connector.py``) writes ``Trainer.current_epoch``, which is raised after the hooks
   ``on_train_epoch_end``: an epoch has one number in its own hooks and another one after the training. We write one
   that means the same in every hook. Test: ``test_lightning_counters.py::test_the_epoch_of_a_checkpoint``.
5. Counters for a file that Lightning did not write, :func:`counters_between_epochs`: Lightning starts at the first
   epoch unless a checkpoint has the counters of all its loops (``restore_loops``).
   Test: ``test_release_checkpoints.py``.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import lightning.pytorch as pl

from jitflow.data.base import ImageDataModule
from jitflow.data.position import DataPosition
from jitflow.errors import CheckpointError

# More batches than any epoch has.
_BEYOND = 10**12


class ExactResume(pl.LightningModule):
    """A LightningModule whose training resumes exactly at a checkpoint's batch, with the data of this library.

    :class:`jitflow.training.module.FlowModule` is one. Derive a module of your own from it to train on an
    :class:`jitflow.data.base.ImageDataModule`, which otherwise refuses to resume from a checkpoint, since it does not
    know the position. With other data, Lightning's own resuming is unchanged. Overrides of the two hooks must call
    ``super()``.
    """

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Correct the counters of a checkpoint before Lightning restores them, and set the position of the data.

        Lightning calls this first (``_restore_modules_and_callbacks``), then ``load_state_dict`` of the data module
        and of the callbacks, then that of its loops (``restore_training_state``); loaders are built after that, or in
        between if ``configure_optimizers`` asks for ``estimated_stepping_batches``.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None:
            resume_exactly(self._trainer, checkpoint)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Correct the step of the loggers before the batch."""
        super().on_train_batch_start(batch, batch_idx)
        if self._trainer is not None:
            correct_logger_step(self._trainer)


def resume_exactly(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Correct the counters in a checkpoint, and set the position of the trainer's data module.

    Call it in ``LightningModule.on_load_checkpoint``, after which Lightning restores its loops. Nothing happens
    outside ``fit``, or with data that are no :class:`jitflow.data.base.ImageDataModule`.

    Args:
        trainer: The trainer that resumes.
        checkpoint: The whole checkpoint; its ``loops`` entry is replaced.

    Raises:
        CheckpointError: If the counters are not those of a training.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if trainer.state.fn != "fit" or not isinstance(data, ImageDataModule):
        return
    loops = checkpoint.get("loops")
    if not isinstance(loops, dict) or "fit_loop" not in loops:
        # Lightning then starts with the first epoch.
        data.resume_at(DataPosition())
        return
    try:
        counters, position = corrected_counters(
            loops["fit_loop"], by_steps=trainer.max_steps != -1, accumulated=trainer.accumulate_grad_batches
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint does not record the position of its training ({type(error).__name__}, {error}); start a "
            "new run from its weights"
        ) from error
    checkpoint["loops"] = {**loops, "fit_loop": counters}
    data.resume_at(position)


def correct_logger_step(trainer: pl.Trainer) -> None:
    """Set the loggers' step to the number of optimiser steps; call it between two batches."""
    if trainer.lightning_module.automatic_optimization and len(trainer.optimizers) == 1:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def last_begun_epoch(trainer: pl.Trainer) -> int:
    """Return the index of the last started epoch; 0 before the first."""
    return max(0, _epochs(trainer).ready - 1)


def last_finished_epoch(trainer: pl.Trainer) -> int:
    """Return the index of the last epoch whose batches are all done; -1 before the end of the first."""
    return int(_epochs(trainer).processed) - 1


def _epochs(trainer: pl.Trainer) -> Any:
    # Lightning declares these counters as a base class without their fields, hence Any.
    return trainer.fit_loop.epoch_progress.current


def counters_between_epochs(epochs: int, steps: int) -> dict[str, Any]:
    """Build the ``loops`` entry of a checkpoint between two epochs.

    Args:
        epochs: Epochs done.
        steps: Optimiser steps done.

    Returns:
        The entry that Lightning's ``restore_loops`` reads.
    """
    # Silence the start-up messages of a trainer that never runs.
    lightning_log = logging.getLogger("lightning.pytorch")
    level = lightning_log.level
    lightning_log.setLevel(logging.WARNING)
    try:
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    finally:
        lightning_log.setLevel(level)
    fit = trainer.fit_loop.state_dict()
    for scope in ("total", "current"):
        for counter in ("ready", "started", "processed", "completed"):
            fit["epoch_progress"][scope][counter] = epochs
    step = fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    step["total"].update(ready=steps, completed=steps)
    return {"fit_loop": fit}


def corrected_counters(
    saved: dict[str, Any], *, by_steps: bool, accumulated: int = 1
) -> tuple[dict[str, Any], DataPosition]:
    """Rewrite the counters of a checkpoint so that Lightning resumes at the right batch.

    Args:
        saved: State of the training loop (``checkpoint["loops"]["fit_loop"]``); it is not modified.
        by_steps: Whether the resuming trainer has ``max_steps``, which makes Lightning enter every epoch as one that
            was interrupted.
        accumulated: Batches per optimiser step of the resuming trainer.

    Returns:
        The state to restore, and the numbers of finished epochs and of batches done in the next one.
    """
    state = copy.deepcopy(saved)
    epochs, batches = state["epoch_progress"], state["epoch_loop.batch_progress"]
    validation = state["epoch_loop.val_loop.batch_progress"]
    done, read = epochs["current"]["processed"], batches["current"]["processed"]
    # Saved in the hook on_train_batch_end; elsewhere every batch of a finished epoch is completed.
    in_batch_end = batches["current"]["completed"] < read
    closed = epochs["current"]["started"] <= done and not in_batch_end
    if closed and (read == 0 or batches["is_last_batch"] or epochs["current"]["ready"] > done):
        _set_epochs(epochs, 0, inside=False)
        _between_epochs(batches, by_steps=by_steps, accumulated=accumulated)
        _set_all(validation, 0)
        return state, DataPosition(done, 0)
    if closed:
        # max_steps ended the training inside this epoch, after the validation if one was due.
        _set_epochs(epochs, -1, inside=True)
        batches["total"]["completed"] -= 1
        batches["current"]["completed"] -= 1
        return state, DataPosition(done - 1, read)
    _set_epochs(epochs, 0, inside=True)
    validated = 0 < validation["current"]["ready"] == validation["current"]["completed"]
    if validated and not in_batch_end:
        validation["total"].update(validation["current"])
    else:
        # The batch is over, and the validation after it, if one is due, has begun.
        for tracker in (batches["total"], batches["current"]):
            tracker["completed"] = tracker["processed"]
        _set_all(validation, 0)
        for tracker in (validation["total"], validation["current"]):
            tracker.update(ready=1, started=1)
    return state, DataPosition(done, read)


def _set_epochs(epochs: dict[str, Any], change: int, *, inside: bool) -> None:
    for tracker in (epochs["total"], epochs["current"]):
        done = tracker["processed"] + change
        tracker.update(ready=done + inside, started=done + inside, processed=done, completed=done)


def _between_epochs(batches: dict[str, Any], *, by_steps: bool, accumulated: int) -> None:
    """Set the batch counters so that the next epoch starts with its first batch."""
    batches["is_last_batch"] = False
    read = batches["total"]["processed"]
    batches["total"].update(ready=read, started=read, completed=read)
    if not by_steps:
        # Without max_steps Lightning starts the new epoch by itself.
        return
    # An epoch whose last batch is all but completed is the only one that Lightning itself ends when it restarts.
    beyond = _BEYOND * accumulated
    batches["total"]["completed"] -= 1
    batches["current"].update(ready=beyond, started=beyond, processed=beyond, completed=beyond - 1)


def _set_all(progress: dict[str, Any], number: int) -> None:
    for tracker in (progress["total"], progress["current"]):
        for name in tracker:
            tracker[name] = number
