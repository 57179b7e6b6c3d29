"""Going on from a checkpoint: Lightning's counters put where the run stands, before Lightning reads them.

Lightning restores the counters of its loops and infers from small differences between them in which hook they were
saved. It infers wrongly in four cases: an epoch that was over is entered again, and counted twice, when there is
``max_steps``; an epoch that ``max_steps`` cut short counts as over; after a save in the last batch of an epoch the end
of that epoch is left out and the next one is never opened; a validation that was due is left out. The counters of the
next checkpoint are then wrong as well. Here the saved counters are written in the few forms from which Lightning goes
on as if nothing had been.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from jitflow.data.position import DataPosition
from jitflow.errors import CheckpointError

# More batches than any epoch has.
_BEYOND = 10**12


class RestartCallback(pl.Callback):
    """Corrects a checkpoint's counters when it is loaded, and tells where the data go on.

    Args:
        epoch_offset: The sampler's epoch minus Lightning's, as the checkpoint knows it.
        go_on: Told the position from which to read.
    """

    def __init__(self, epoch_offset: int, go_on: Callable[[DataPosition], None]) -> None:
        self._epoch_offset = epoch_offset
        self._go_on = go_on
        self._corrected = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Replace the counters of the training loop, which Lightning restores after this.

        Raises:
            CheckpointError: If they are not those of a training.
        """
        loops = checkpoint.get("loops")
        if not isinstance(loops, dict) or "fit_loop" not in loops or trainer.state.fn != "fit":
            return
        try:
            counters, epoch, num_batches = corrected_counters(
                loops["fit_loop"],
                by_steps=trainer.max_steps != -1,
                accumulated=trainer.accumulate_grad_batches,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint does not say where its training stood ({type(error).__name__}, {error}); start a new "
                "run from its weights"
            ) from error
        checkpoint["loops"] = {**loops, "fit_loop": counters}
        self._go_on(DataPosition(epoch + self._epoch_offset, num_batches, self._epoch_offset))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Correct the step of the loggers once, which Lightning restores one too low or too high."""
        if not self._corrected and pl_module.automatic_optimization and len(trainer.optimizers) == 1:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        self._corrected = True


def corrected_counters(
    saved: dict[str, Any], *, by_steps: bool, accumulated: int = 1
) -> tuple[dict[str, Any], int, int]:
    """Write the counters of a checkpoint so that Lightning goes on where the training was.

    Args:
        saved: State of the training loop (``checkpoint["loops"]["fit_loop"]``); it is not changed.
        by_steps: Whether the resuming trainer has ``max_steps``, which makes Lightning enter every epoch as one that
            was interrupted.
        accumulated: Batches per optimiser step of the resuming trainer.

    Returns:
        The state to be restored, how many epochs are over, and how many batches of the next one are done.
    """
    state = copy.deepcopy(saved)
    epochs, batches = state["epoch_progress"], state["epoch_loop.batch_progress"]
    validation = state["epoch_loop.val_loop.batch_progress"]
    done, read = epochs["current"]["processed"], batches["current"]["processed"]
    # In the hooks on_train_batch_end; elsewhere an epoch that is over has only batches that are.
    in_batch_end = batches["current"]["completed"] < read
    closed = epochs["current"]["started"] <= done and not in_batch_end
    if closed and (read == 0 or batches["is_last_batch"] or epochs["current"]["ready"] > done):
        _set_epochs(epochs, 0, inside=False)
        _between_epochs(batches, by_steps=by_steps, accumulated=accumulated)
        _set_all(validation, 0)
        return state, done, 0
    if closed:
        # max_steps ended the training inside this epoch, after the validation if one was due.
        _set_epochs(epochs, -1, inside=True)
        batches["total"]["completed"] -= 1
        batches["current"]["completed"] -= 1
        return state, done - 1, read
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
    return state, done, read


def _set_epochs(epochs: dict[str, Any], change: int, *, inside: bool) -> None:
    for tracker in (epochs["total"], epochs["current"]):
        done = tracker["processed"] + change
        tracker.update(ready=done + inside, started=done + inside, processed=done, completed=done)


def _between_epochs(batches: dict[str, Any], *, by_steps: bool, accumulated: int) -> None:
    """Let the next epoch begin with its first batch."""
    batches["is_last_batch"] = False
    read = batches["total"]["processed"]
    batches["total"].update(ready=read, started=read, completed=read)
    if not by_steps:
        # Lightning starts a new epoch by itself.
        return
    # An epoch whose last batch is all but completed is the only one that Lightning itself ends when it restarts.
    beyond = _BEYOND * accumulated
    batches["total"]["completed"] -= 1
    batches["current"].update(ready=beyond, started=beyond, processed=beyond, completed=beyond - 1)


def _set_all(progress: dict[str, Any], number: int) -> None:
    for tracker in (progress["total"], progress["current"]):
        for name in tracker:
            tracker[name] = number
