"""Kill training runs at random moments, resume them by the same command, and compare the end with an unbroken run.

    python tests/soak/soak.py --kills 50 --seed 0 --out /tmp/soak

Three tiny trainings (images, text, micro-Doppler) of at least 300 optimiser steps that save every 10, on one CPU
thread. Each attempt is a process forked from one that has only imported the library, so that a start does not cost
half a minute; it makes the same call as every other attempt and is ended by SIGKILL. A third of the kills wait for a
save, a sixth for a validation, the others come at a random part of a random step. After each kill every
checkpoint has to be whole and the newest no older than before it. In the end weights, both averages and the
optimiser's state have to be equal bit for bit.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

# Imported here so that a fork need not do it.
from lightning.pytorch.loggers import tensorboard  # noqa: F401
from sklearn.datasets import load_digits  # noqa: F401

from jitflow.apps.microdoppler.data import LatentInfo
from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.checkpoint.find import resume_point
from jitflow.checkpoint.folder import LAST_NAME, CheckpointFolder
from jitflow.cli import main as jitflow_main
from jitflow.io.array_file import ArrayFileWriter
from jitflow.io.files import load_checkpoint
from jitflow.verbs import train_options  # noqa: F401
from jitflow.verbs.documented import train_documented

STEPS = 300
STEP, WRITE, NAME, VALIDATION = range(4)
PHASES = ("in a step", "while writing", "while naming", "in a validation")
NET = {"depth": 2, "hidden_size": 32, "num_heads": 2}
# What ends the trainings: epochs, or steps, then inside an epoch.
BY_STEPS = False


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

        JiTModelCheckpoint._save = marked(self.writing, JiTModelCheckpoint._save)
        CheckpointFolder.put = marked(self.naming, CheckpointFolder.put)
        step, validating, saving = self.step, self.validating, JiTModelCheckpoint.on_validation_end

        def on_train_batch_start(self: Any, trainer: pl.Trainer, *args: Any) -> None:
            step.value = trainer.global_step

        def on_validation_start(self: Any, *args: Any) -> None:
            validating.value = 1

        def on_validation_end(self: Any, *args: Any) -> None:
            saving(self, *args)
            validating.value = 0

        JiTModelCheckpoint.on_train_batch_start = on_train_batch_start
        JiTModelCheckpoint.on_validation_start = on_validation_start
        JiTModelCheckpoint.on_validation_end = on_validation_end


# ------------------------------------------------------------------------------------------- the trainings


def images(folder: Path, inputs: Path) -> None:
    """``jitflow train`` with accumulation; ten epochs of 31 steps of two batches, the last of one."""
    settings = {
        "run_dir": folder,
        "model.model_name": "JiT-N/4",
        "model.init_args.net_settings": "{depth: 2, hidden_size: 32, num_heads: 2, bottleneck_dim: 16}",
        "data.batch_size": 8,
        "data.num_workers": 0,
        **({"trainer.max_steps": 310, "trainer.max_epochs": 100} if BY_STEPS else {"trainer.max_epochs": 10}),
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.accumulate_grad_batches": 2,
        "trainer.limit_train_batches": 61,
        "trainer.limit_val_batches": 2,
        "trainer.check_val_every_n_epoch": 1,
        "trainer.log_every_n_steps": 10,
        "checkpoint.save_last_freq": 1,
        "checkpoint.save_last_every_n_steps": 10,
        "checkpoint.save_milestone_freq": 2,
        "checkpoint.keep_milestones": 2,
        "checkpoint.best_name": "best.ckpt",
        "schedule.warmup_epochs": 1,
    }
    words = ["train", "--config", "images/digits"]
    for name, value in settings.items():
        words += [f"--{name.replace('init_args.', '')}", str(value)]
    status = jitflow_main(words)
    if status:
        sys.exit(status)


def text(folder: Path, inputs: Path) -> None:
    """Text as colour; an epoch of 10 steps, saved and validated after each."""
    train_documented(
        "text",
        {
            "data_path": inputs / "text",
            "model": "JiT-N/4",
            "img_size": 16,
            "net_settings": {**NET, "bottleneck_dim": 16},
            "batch_size": 4,
            "epochs": 100 if BY_STEPS else STEPS // 10,
            "max_steps": STEPS + 5 if BY_STEPS else -1,
            "warmup_epochs": 1,
            "save_interval": 1,
            "val_interval": 1,
            "accelerator": "cpu",
        },
        folder,
    )


def microdoppler(folder: Path, inputs: Path) -> None:
    """Latents of two users; an epoch of 10 steps, saved and validated after each."""
    train_documented(
        "microdoppler",
        {
            "latent_dir": inputs / "latents",
            "batch_size": 4,
            "max_epochs": 100 if BY_STEPS else STEPS // 10,
            "max_steps": STEPS + 5 if BY_STEPS else -1,
            "model": "LightningDiT-N/4",
            "net_settings": NET,
            "accelerator": "cpu",
        },
        folder,
        settings={"checkpoint.save_last_freq": 1},
    )


TRAININGS: dict[str, Callable[[Path, Path], None]] = {"images": images, "text": text, "microdoppler": microdoppler}


def make_inputs(folder: Path) -> None:
    """Write the text and the latents."""
    (folder / "text").mkdir(parents=True)
    words = random.Random(0)
    lines = [" ".join(f"w{words.randrange(30)}" for _ in range(4)) for _ in range(46)]
    (folder / "text" / "a.txt").write_text("\n".join(lines))
    for split, number in (("train", 40), ("val", 8)):
        draws = np.random.default_rng(len(split))
        info = LatentInfo((0.0,) * 4, (1.0,) * 4, "vae_f16d32", "0" * 64, (64, 64), "soak")
        layout = {
            "latents": ((number, 4, 8, 8), "float32"),
            "labels": ((number,), "int64"),
            "user_ids": ((number,), "int64"),
        }
        writer = ArrayFileWriter.create(folder / "latents" / f"{split}.safetensors", layout, info.to_metadata())
        writer.arrays["latents"][:] = draws.standard_normal((number, 4, 8, 8), np.float32)
        writer.arrays["labels"][:] = np.arange(number) % 2
        writer.arrays["user_ids"][:] = np.arange(number) % 2 + 1
        writer.finish()


# --------------------------------------------------------------------------------------------- one attempt


def start(name: str, folder: Path, inputs: Path, watch: Watch) -> int:
    """Fork a process that trains; return its number."""
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
        TRAININGS[name](folder, inputs)
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


def wait_and_kill(pid: int, watch: Watch, draws: random.Random, aim: int) -> tuple[int, int] | int:
    """Kill a training at a drawn moment: some steps after it has begun, and some part of a step later.

    Returns:
        Phase and step in which it was, or its exit status if it ended before.
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
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return phase, step
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


# ------------------------------------------------------------------------------------------------- the soak


class Soak:
    """Everything of one call of the script."""

    def __init__(self, out: Path, seed: int, log_path: Path) -> None:
        self.out, self.draws, self.watch = out, random.Random(seed), Watch()
        self.log_file = log_path.open("w")
        self.phases: Counter[str] = Counter()
        self.kills = self.rounds = self.failures = 0

    def log(self, line: str) -> None:
        """Write a line to the screen and into the log."""
        print(line, flush=True)
        self.log_file.write(line + "\n")
        self.log_file.flush()

    def unbroken(self, name: str, inputs: Path) -> dict[str, Any]:
        """Train once without a kill."""
        folder = self.out / f"{name}-unbroken"
        pid = start(name, folder, inputs, self.watch)
        started: float | None = None
        while (status := ended(pid)) is None:
            if started is None and self.watch.step.value >= 0:
                started = time.monotonic()
            time.sleep(0.01)
        if status or started is None:
            raise SystemExit(f"{name}: the unbroken training ended with {status}; see {folder}.output")
        seconds = time.monotonic() - started
        state = final_state(folder)
        self.log(f"{name}: unbroken run, {state['global_step']} steps in {seconds:.1f} s")
        return state

    def soak(self, name: str, inputs: Path, kills: int) -> None:
        """Kill trainings of one application until so many kills are done, and finish the last one."""
        expected = self.unbroken(name, inputs)
        done = 0
        while done < kills:
            folder = self.out / f"{name}-{self.rounds}"
            self.rounds += 1
            newest = -1
            while True:
                pid = start(name, folder, inputs, self.watch)
                if done >= kills:
                    _, raw = os.waitpid(pid, 0)
                    result: Any = os.waitstatus_to_exitcode(raw)
                else:
                    aim = (STEP, WRITE, STEP, WRITE, STEP, VALIDATION)[done % 6]
                    result = wait_and_kill(pid, self.watch, self.draws, aim)
                if not isinstance(result, tuple):
                    break
                phase, step = result
                before, newest = newest, newest_step(folder)
                done, self.kills = done + 1, self.kills + 1
                self.phases[PHASES[phase]] += 1
                self.log(f"{name}: kill {done} {PHASES[phase]} {step}; newest checkpoint: step {newest}")
                # A save every 10 steps; the last but one is at least named when the last one begins.
                if newest < before or newest < step - 22:
                    raise AssertionError(f"work was lost: step {before}, then {newest}, killed in step {step}")
            if result != 0:
                raise AssertionError(f"{folder}: ended with {result}; see {folder}.output")
            wrong = differences(expected, final_state(folder))
            self.failures += bool(wrong)
            self.log(f"{name}: finished after {done} kills; {'DIFFERS in ' + str(wrong[:5]) if wrong else 'bit-equal'}")
            if not wrong:
                shutil.rmtree(folder)


def main() -> int:
    """Soak all applications; 0 if everything was equal."""
    global BY_STEPS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills in total")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", type=Path, default=Path("/tmp/jitflow-soak"), help="folder of the runs; emptied")
    parser.add_argument("--log", type=Path, default=Path(__file__).with_name("soak_log.txt"))
    parser.add_argument("--only", choices=sorted(TRAININGS), help="one application")
    parser.add_argument("--by", choices=("epochs", "steps"), default="epochs", help="what ends the trainings")
    given = parser.parse_args()
    BY_STEPS = given.by == "steps"
    shutil.rmtree(given.out, ignore_errors=True)
    inputs = given.out / "inputs"
    make_inputs(inputs)
    soak = Soak(given.out, given.seed, given.log)
    names = [given.only] if given.only else list(TRAININGS)
    length = f"{STEPS} steps by {given.by}"
    soak.log(f"soak: {given.kills} kills, seed {given.seed}, torch {torch.__version__}, {length}, one thread")
    for place, name in enumerate(names):
        share = given.kills * (place + 1) // len(names) - given.kills * place // len(names)
        soak.soak(name, inputs, share)
    where = ", ".join(f"{count} {phase}" for phase, count in sorted(soak.phases.items()))
    soak.log(f"soak: {soak.kills} kills ({where}) in {soak.rounds} runs, {soak.failures} runs differ")
    return int(soak.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
