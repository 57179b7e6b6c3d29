"""Position of a training in its data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataPosition:
    """Position between two batches of an epoch.

    Args:
        epoch: Counted from 0.
        num_batches: Batches of the epoch whose training step is done.
    """

    epoch: int = 0
    num_batches: int = 0
