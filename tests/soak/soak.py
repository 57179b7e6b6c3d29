"""Kill training runs at random moments, resume them by the same command, and compare the end with an unbroken run.

    python tests/soak/soak.py --kills 50 --seed 0 --out /tmp/soak

Three tiny trainings (images, text, micro-Doppler) of at least 300 optimiser steps that save every 10, on one CPU
thread. Each attempt is a process forked from one that has only imported the library, so that a start does not cost
half a minute; it makes the same call as every other attempt. Six are ended by SIGKILL, the next six by SIGTERM, after
which they save. A third of the signals wait for a save, a sixth for a validation, the others come at a random part of a
random step. After each every checkpoint has to be whole and the newest no older than before it. In the end weights,
both averages and the optimiser's state have to be equal bit for bit.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

# Imported here so that a fork need not do it.
from lightning.pytorch.loggers import tensorboard  # noqa: F401
from sklearn.datasets import load_digits  # noqa: F401
from soak_attempts import (
    PHASES,
    STEP,
    VALIDATION,
    WRITE,
    Watch,
    differences,
    ended,
    final_state,
    newest_step,
    start,
    wait_and_kill,
)
from soak_trainings import STEPS, TRAININGS, make_inputs

from jitflow.verbs import train_options  # noqa: F401


class Soak:
    """Everything of one call of the script."""

    def __init__(self, out: Path, seed: int, log_path: Path, *, by_steps: bool, both: bool = True) -> None:
        self.by_steps = by_steps
        self.both = both
        self.out, self.draws, self.watch = out, random.Random(seed), Watch()
        self.log_file = log_path.open("w")
        self.phases: Counter[str] = Counter()
        self.kills = self.rounds = self.failures = 0

    def log(self, line: str) -> None:
        """Write a line to the screen and into the log."""
        print(line, flush=True)
        self.log_file.write(line + "\n")
        self.log_file.flush()

    def start(self, name: str, folder: Path, inputs: Path) -> int:
        """Fork a process that trains one application; return its number."""
        train = functools.partial(TRAININGS[name], folder, inputs, by_steps=self.by_steps)
        return start(train, folder, self.watch)

    def unbroken(self, name: str, inputs: Path) -> dict[str, Any]:
        """Train once without a kill."""
        folder = self.out / f"{name}-unbroken"
        pid = self.start(name, folder, inputs)
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
                pid = self.start(name, folder, inputs)
                if done >= kills:
                    _, raw = os.waitpid(pid, 0)
                    result: Any = os.waitstatus_to_exitcode(raw)
                else:
                    aim = (STEP, WRITE, STEP, WRITE, STEP, VALIDATION)[done % 6]
                    number = (signal.SIGKILL, signal.SIGTERM)[done // 6 % 2 if self.both else 0]
                    result = wait_and_kill(pid, self.watch, self.draws, aim, number)
                if not isinstance(result, tuple):
                    break
                phase, step = result
                before, newest = newest, newest_step(folder)
                done, self.kills = done + 1, self.kills + 1
                self.phases[PHASES[phase]] += 1
                self.phases[number.name] += 1
                self.log(f"{name}: {number.name} {done} {PHASES[phase]} {step}; newest checkpoint: step {newest}")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills in total")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", type=Path, default=Path("/tmp/jitflow-soak"), help="folder of the runs; emptied")
    parser.add_argument("--log", type=Path, default=Path(__file__).with_name("soak_log.txt"))
    parser.add_argument("--only", choices=sorted(TRAININGS), help="one application")
    parser.add_argument("--by", choices=("epochs", "steps"), default="epochs", help="what ends the trainings")
    parser.add_argument("--signals", choices=("both", "SIGKILL"), default="both", help="what ends a process")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    inputs = given.out / "inputs"
    make_inputs(inputs)
    soak = Soak(given.out, given.seed, given.log, by_steps=given.by == "steps", both=given.signals == "both")
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
