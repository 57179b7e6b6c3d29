"""One attempt: fork a training, see where it stands, kill it; and what it left behind."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.checkpoint.find import resume_point
from jitflow.checkpoint.folder import LAST_NAME, CheckpointFolder
from jitflow.io.files import load_checkpoint

STEP, WRITE, NAME, VALIDATION = range(4)
PHASES = ("in a step", "while writing", "while naming", "in a validation")


class Watch:
    """Where a forked training stands, in memory that both processes share."""

    def __init__(self) -> None:
        self.step = multiprocessing.RawValue(ctypes.c_long, -1)
        self.writing = multiprocessing.RawValue(ctypes.c_long, 0)
        self.naming = multiprocessing.RawValue(ctypes.c_long, 0)
        self.validating = multiprocessing.RawValue(ctypes.c_long, 0)

    def reset(self) -> None:
        self.step.value = -1
        self.writing.value = self.naming.value = self.validating.value = 0

    def phase(self) -> int:
        if self.writing.value:
            return WRITE
        if self.naming.value:
            return NAME
        return VALIDATION if self.validating.value else STEP

    def attach(self) -> None:
        """Tell the other process what the library does; called in the fork."""

        def marked(flag: Any, function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                flag.value = 1
                try:
                    return function(*args, **kwargs)
                finally:
                    flag.value = 0

            return run

        pl.Trainer.save_checkpoint = marked(self.writing, pl.Trainer.save_checkpoint)
        CheckpointFolder.commit = marked(self.naming, CheckpointFolder.commit)
        step, validating, saving = self.step, self.validating, JiTModelCheckpoint.on_validation_end
        starting = JiTModelCheckpoint.on_train_batch_start

        def on_train_batch_start(self: Any, trainer: pl.Trainer, *args: Any) -> None:
            step.value = trainer.global_step
            starting(self, trainer, *args)

        def on_validation_start(self: Any, *args: Any) -> None:
            validating.value = 1

        def on_validation_end(self: Any, *args: Any) -> None:
            saving(self, *args)
            validating.value = 0

        JiTModelCheckpoint.on_train_batch_start = on_train_batch_start
        JiTModelCheckpoint.on_validation_start = on_validation_start
        JiTModelCheckpoint.on_validation_end = on_validation_end


def start(train: Callable[[], None], folder: Path, watch: Watch) -> int:
    """Fork a process that trains into a folder; return its number."""
    watch.reset()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        with (folder.parent / f"{folder.name}.output").open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        logging.getLogger("jitflow").setLevel(logging.INFO)
        watch.attach()
        train()
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1
    except BaseException:  # noqa: BLE001 (the fork must not go on as its parent would)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int) -> int | None:
    """Return the status of a process that has ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait_and_kill(
    pid: int, watch: Watch, draws: random.Random, aim: int, number: signal.Signals = signal.SIGKILL
) -> tuple[int, int] | int:
    """Send a training a signal at a drawn moment: some steps after it has begun, and some part of a step later.

    Returns:
        Phase and step in which it was, or its exit status if it ended before, or otherwise than by the signal.
    """
    steps, part = draws.randrange(0, 60 if aim == STEP else 30), draws.random()
    wanted: int | None = None
    began = time.monotonic()
    while (status := ended(pid)) is None:
        step = watch.step.value
        if step >= 0 and wanted is None:
            # From the first step on: before it there is nothing to lose.
            wanted, first, began = step + steps, step, time.monotonic()
        if wanted is not None and step >= wanted and (aim == STEP or watch.phase() in _aims(aim)):
            seconds_per_step = (time.monotonic() - began) / max(step - first, 10)
            time.sleep(part * (seconds_per_step if aim == STEP else 0.01))
            phase, step = watch.phase(), watch.step.value
            os.kill(pid, number)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return (phase, step) if status in (-number, 128 + number) else status
        # Saving takes milliseconds.
        time.sleep(0.0005)
    return status


def _aims(aim: int) -> tuple[int, ...]:
    return (WRITE, NAME) if aim == WRITE else (aim,)


def newest_step(folder: Path) -> int:
    """Step of the checkpoint that a resume takes; -1 if there is none. Every file has to be whole."""
    damaged = []
    for place in (folder, folder / "checkpoints"):
        known = CheckpointFolder(place)
        damaged += [f"{file}: {problem}" for file in known.checkpoints() if (problem := known.problem(file))]
    if damaged:
        raise AssertionError(f"damaged: {damaged}")
    found = resume_point(folder)
    return -1 if found is None else int(load_checkpoint(found)["global_step"])


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of what differs between two nested states, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        return [] if same else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{name} (names)"]
        return [found for key in a for found in differences(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f"{name} (length)"]
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{name}.{i}")]
    return [] if a == b else [name]


def final_state(folder: Path) -> dict[str, Any]:
    """What has to be equal at the end."""
    found = [place / LAST_NAME for place in (folder, folder / "checkpoints") if (place / LAST_NAME).exists()]
    state = load_checkpoint(found[0])
    names = ("state_dict", "model_ema1", "model_ema2", "optimizer_states", "global_step")
    return {name: state[name] for name in names}
