"""Where in the data a training stands, between two batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataPosition:
    """A point between two batches of an epoch.

    Args:
        epoch: Counted from 0.
        num_batches: Batches of it whose training step is done.
    """

    epoch: int = 0
    num_batches: int = 0
