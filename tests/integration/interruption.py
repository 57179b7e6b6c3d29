"""A training that is saved and broken off in any hook; for the tests of resuming."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch


class Interruption(Exception):
    """The end of a process, as far as a test goes."""


class At(pl.Callback):
    """Does something once, when a batch of training or validation begins after a number of optimiser steps."""

    def __init__(self, step: int, action: Callable[[], Any], *, validation: bool = False) -> None:
        self.step, self.validation = step, validation
        self._actions = [action]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.validation and trainer.global_step == self.step and self._actions:
            self._actions.pop()()

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.validation and trainer.global_step == self.step and self._actions:
            self._actions.pop()()


def send(number):
    """Return an action that sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def power_cut():
    """An action that ends a training at once."""
    raise Interruption


class RandomImages:
    """Images of one class whose pixels come from the global generator, as an augmentation's draws do."""

    classes = ("only",)

    def __init__(self, num):
        self.num = num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        return torch.randint(256, (1, 2, 2), dtype=torch.uint8), 0


class SaveAndStop(pl.Callback):
    """Saves and dies at the n-th call of a hook."""

    def __init__(self, hook, count, path):
        self.count, self.path, self.num_seen = count, path, None
        setattr(self, hook, self.fire)

    def fire(self, trainer, module, *args):
        if trainer.sanity_checking:
            return
        self.count -= 1
        if self.count == 0:
            trainer.save_checkpoint(self.path)
            self.num_seen = len(module.seen)
            raise Interruption


def make_trainer(*callbacks, **options):
    """A trainer on the CPU that says and writes nothing by itself."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(**{**quiet, **options}, callbacks=list(callbacks))
