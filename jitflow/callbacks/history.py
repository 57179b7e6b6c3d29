"""History of training losses and time, saved with the checkpoint so that a resume continues the curve."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from jitflow.training.outputs import read_outputs


class TrainingHistory(pl.Callback):
    """Record the training loss after each optimiser step, and the seconds spent training.

    For short runs whose curve is plotted at the end; long runs have a logger. Losses stay on the device until they are
    read.
    """

    def __init__(self) -> None:
        self._recent: list[Tensor] = []
        self._losses: list[float] = []
        self._seconds = 0.0
        self._started: float | None = None

    @property
    def losses(self) -> list[float]:
        """Loss of each batch so far."""
        if self._recent:
            self._losses += torch.stack(self._recent).tolist()
            self._recent = []
        return self._losses

    @property
    def seconds(self) -> float:
        """Seconds spent in training so far, over all resumed parts."""
        return self._seconds + (time.monotonic() - self._started if self._started is not None else 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing the training."""
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss of the batch."""
        loss = read_outputs(outputs).loss
        if loss is not None:
            self._recent.append(loss.float())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop timing the training."""
        self._seconds, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return the training losses and seconds so far, for the checkpoint."""
        return {"losses": list(self.losses), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore losses and seconds from a checkpoint."""
        self._recent, self._losses, self._seconds = [], list(state_dict["losses"]), float(state_dict["seconds"])
