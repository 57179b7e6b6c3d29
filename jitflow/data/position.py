"""Where in the data a run stands, read from Lightning's loops, and where the next run must go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl


@dataclass(frozen=True)
class DataPosition:
    """A point between two batches.

    Args:
        epoch: The sampler's epoch.
        num_batches: Batches of it whose training step is done.
        epoch_offset: The sampler's epoch minus Lightning's.
        closed: Whether Lightning counts the epoch as finished, which it also does when ``max_steps`` cuts it.
        ending: Whether it was saved in the ``on_train_batch_end`` hooks of the epoch's last batch.
    """

    epoch: int = 0
    num_batches: int = 0
    epoch_offset: int = 0
    closed: bool = False
    ending: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, which a checkpoint can hold without pickling a class."""
        return asdict(self)


def read_position(trainer: pl.Trainer, epoch_offset: int) -> DataPosition:
    """Read where a trainer stands; right in every hook, and after ``fit`` has returned or failed.

    Args:
        trainer: A trainer that fits, or has fitted.
        epoch_offset: The present offset of the sampler.

    Returns:
        The position to be saved.
    """
    # Lightning declares these counters as a base class without the fields used here, hence Any.
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    # `processed` is the count whose optimisation is over: it rises before the on_train_batch_end hooks, in
    # which checkpoints are saved, and not for a batch whose training step failed.
    if epochs.started > epochs.processed:
        return DataPosition(
            epochs.processed + epoch_offset,
            batches.processed,
            epoch_offset,
            ending=batches.completed < batches.processed >= trainer.num_training_batches,
        )
    if epochs.processed == 0 or epochs.ready > epochs.processed:
        return DataPosition(epochs.processed + epoch_offset, 0, epoch_offset)
    # Between two epochs, or after the last. The batch counters still hold those of the closed epoch.
    return DataPosition(
        epochs.processed - 1 + epoch_offset,
        batches.processed,
        epoch_offset,
        closed=True,
    )


def count_epochs(trainer: pl.Trainer) -> int:
    """Return how many epochs Lightning has finished, which is the epoch it will give to ``set_epoch``."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return int(epochs.processed)


def next_position(saved: DataPosition) -> DataPosition:
    """Work out where to read on after a saved position.

    Args:
        saved: The position in the checkpoint, or the one that :mod:`jitflow.data.restart` found.

    Returns:
        The position whose ``epoch``, ``num_batches`` and ``epoch_offset`` the sampler is to take.
    """
    if saved.closed or saved.ending:
        return DataPosition(saved.epoch + 1, 0, saved.epoch_offset)
    return DataPosition(saved.epoch, saved.num_batches, saved.epoch_offset)
