"""History of a module's two averages (EMAs): their number of updates, and what is left of the initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jitflow.core.ema import warmed_up_decay
from jitflow.errors import CheckpointError

ENTRY = "averages"
"""Name of the history among a checkpoint's entries."""
LARGEST_START_SHARE = 0.05
"""Share of the initial weights in an average above which its samples show them."""


@dataclass(frozen=True)
class EMAHistory:
    """Updates of two averages of the weights so far; stored in every checkpoint.

    Attributes:
        num_updates: Number of updates; None if unknown, as in files that do not hold it, whose warm-up is over.
        start_shares: Share of the weights that each average started from: the product of its applied decays, in
            ``[0, 1]``.
    """

    num_updates: int | None = 0
    start_shares: tuple[float, float] = (1.0, 1.0)

    def next_decays(self, decays: tuple[float, float], *, warmup: bool) -> tuple[float, float]:
        """Return the decays of the next update, which are smaller than the given ones in the warm-up.

        Args:
            decays: Decays after the warm-up.
            warmup: Whether there is a warm-up.
        """
        if not warmup or self.num_updates is None:
            return decays
        first, second = (warmed_up_decay(decay, self.num_updates + 1) for decay in decays)
        return first, second

    def after_update(self, decays: tuple[float, float]) -> EMAHistory:
        """Return the history after an update with these decays."""
        first, second = (share * decay for share, decay in zip(self.start_shares, decays, strict=True))
        return EMAHistory(None if self.num_updates is None else self.num_updates + 1, (first, second))

    def state(self) -> dict[str, Any]:
        """Return the history as an entry of plain values, for a checkpoint."""
        return {ENTRY: {"num_updates": self.num_updates, "start_shares": list(self.start_shares)}}

    @classmethod
    def from_state(cls, extra: Mapping[str, Any], *, steps: int, settings: Mapping[str, Any]) -> EMAHistory:
        """Read the history from a checkpoint.

        A file without it has no warm-up; its shares are estimated as ``decay ** steps``.

        Args:
            extra: Entries of the checkpoint, with that of :meth:`state` if it has one.
            steps: Optimiser steps done; 0 if unknown.
            settings: Settings of the module, ``ema_decay1`` and ``ema_decay2`` among them if known.

        Raises:
            CheckpointError: If the entry is damaged.
        """
        entry = extra.get(ENTRY)
        if entry is None:
            first, second = (_share(settings.get(name), steps) for name in ("ema_decay1", "ema_decay2"))
            return cls(None, (first, second))
        try:
            assert isinstance(entry, Mapping)
            updates = None if entry["num_updates"] is None else int(entry["num_updates"])
            first, second = map(float, entry["start_shares"])
            assert 0 <= first <= 1 and 0 <= second <= 1 and (updates is None or updates >= 0)
        except (AssertionError, KeyError, OverflowError, TypeError, ValueError):
            raise CheckpointError("the checkpoint's history of its averages is damaged") from None
        return cls(updates, (first, second))

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> EMAHistory:
        """Read the history from the entries of a Lightning checkpoint."""
        return cls.from_state(
            checkpoint.get("jitflow", {}),
            steps=int(checkpoint.get("global_step", 0)),
            settings=checkpoint.get("hyper_parameters", {}),
        )

    def start_warning(self, version: int) -> str | None:
        """Return one line if an average still holds much of the weights that its training started from, else None.

        Args:
            version: 1 or 2.
        """
        share = self.start_shares[version - 1]
        if not share > LARGEST_START_SHARE:
            return None
        percent = f"{math.floor(share * 100)} %"
        return (
            f"EMA {version} still holds {percent} of the weights that its training started from; use --ema 0 (the "
            "weights themselves; an export has them if it is made with --ema 0), or train for more steps"
        )


def _share(decay: object, steps: int) -> float:
    """Return the share of the initial weights after updates with a constant decay; 0 if it is unknown."""
    return float(decay**steps) if isinstance(decay, float) and 0 <= decay <= 1 and steps > 0 else 0.0
