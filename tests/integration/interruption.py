"""A training that is saved and broken off in any hook; for the tests of resuming."""

from __future__ import annotations

import lightning.pytorch as pl
import torch


class Interruption(Exception):
    """The end of a process, as far as a test goes."""


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
