"""Training rate of ``jitflow demo images`` through Lightning's Trainer: on a GPU against the processor's threads.

Run: ``OMP_NUM_THREADS=2 python benchmarks/bench_demo.py --row gpu --row cpu`` for two threads; without ``--row`` on the
GPU only, if there is one. The demo's recipe with fewer epochs. A step's time is that of the median epoch; the first
one, which compiles, does not count. ``all_ms`` is the mean over the others, with saving, validation and pictures.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from _timing import Report, add_output_options, add_row_options, prepare, synchronise
from _turns import wait_for_turn

from jitflow.apps.images.demo import DEMO
from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe


class EpochTimer(pl.Callback):
    """Callback that times the epochs of a training, and what follows the last one, without the first epoch.

    Attributes:
        epochs: Milliseconds of a step in each epoch after the first.
        steps: Steps of these epochs.
        seconds: Duration of all of them.
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.steps, self.seconds = 0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock at the second epoch, once no other benchmark of a visit is being timed."""
        if trainer.current_epoch == 1:
            wait_for_turn()
            synchronise(str(pl_module.device))
            self._began = time.perf_counter()
        self._first, self._started = trainer.global_step, time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch's time."""
        if trainer.current_epoch == 0:
            return
        synchronise(str(pl_module.device))
        steps, now = trainer.global_step - self._first, time.perf_counter()
        self.epochs.append(1000 * (now - self._started) / steps)
        self.steps += steps

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._began


def train(accelerator: str, epochs: int) -> tuple[EpochTimer, int]:
    """Train the demo's recipe, and return its times and the images of a step.

    Args:
        accelerator: ``cpu`` or ``gpu``.
        epochs: At least 2.
    """
    changes: dict[str, Any] = {
        **DEMO.overrides,
        "trainer.accelerator": accelerator,
        "trainer.max_epochs": epochs,
        "trainer.enable_progress_bar": False,
        "schedule.warmup_epochs": 1,
    }
    recipe, timer = override(read_recipe(DEMO.recipe), changes), EpochTimer()
    with tempfile.TemporaryDirectory(prefix="jitflow-demo-") as folder:
        fit(recipe, Path(folder) / "run", callbacks=[timer])
    return timer, recipe["data"]["init_args"]["batch_size"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_options(parser)
    parser.add_argument("--epochs", type=int, default=None, help="10; 2 in a dry run")
    add_row_options(parser, ["gpu", "cpu"])
    args = parser.parse_args(argv)
    prepare(args)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    report = Report(device=args.device, out=args.out)
    epochs = args.epochs or (2 if args.tiny else 10)
    taken: dict[str, float] = {}
    name = f"digits demo's step through the Trainer, {epochs} epochs"
    for accelerator in args.row or (["gpu"] if args.device.startswith("cuda") else ["cpu"]):
        timer, batch = train(accelerator, epochs)
        taken[accelerator] = statistics.median(timer.epochs)
        rate = {"images_per_sec": round(1000 * batch / taken[accelerator], 1)}
        rate["all_ms"] = round(1000 * timer.seconds / timer.steps, 2)
        report.add(f"{name}, {accelerator}", taken[accelerator], None, "ms", **rate)
    if len(taken) == 2:
        report.add(f"{name}, gpu / cpu", taken["gpu"], taken["cpu"], "ms")


if __name__ == "__main__":
    main()
