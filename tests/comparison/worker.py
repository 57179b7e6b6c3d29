"""Run the commands of one commit, each in a fork of this process, and record the losses of each training."""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.commands import IMAGES_SCRIPT, Command, commands
from comparison.programs import choose_spelling, last_line


def work(tree: Path, applications: Sequence[str], *, trainings_only: bool) -> None:
    """Run the commands of one commit in the working directory, each in a fork of this process.

    A fork starts at once, where a new Python would import torch and Lightning for several seconds.

    Args:
        tree: Files of the commit, which are first on the path of modules.
        applications: Which applications to run.
        trainings_only: Leave samples and scores out.
    """
    _import_what_is_large(tree)
    Path("images_documented.py").write_text(IMAGES_SCRIPT, encoding="utf-8")
    Path("logs").mkdir()
    status = {}
    for command in commands():
        if command.application not in applications or (trainings_only and not command.trains):
            continue
        words = shlex.split(choose_spelling(command, tree))
        log = Path("logs") / f"{command.name.replace('/', '_').replace(' ', '_')}.log"
        started = time.monotonic()
        code = _run_in_fork(command, words, tree, log)
        seconds = round(time.monotonic() - started, 1)
        status[command.name] = {"code": code, "seconds": seconds, "said": last_line(log.read_text("utf-8", "replace"))}
        Path("status.json").write_text(json.dumps(status), encoding="utf-8")
        print(f"{Path.cwd().name}  {command.name}: {seconds} s{'' if code == 0 else ', failed'}", file=sys.stderr)


def _import_what_is_large(tree: Path) -> None:
    """Import what every command needs; SystemExit if jitflow is not the commit's."""
    large = ("jsonargparse", "lightning.pytorch.cli", "matplotlib.pyplot", "sklearn.datasets", "torchvision")
    for name in (*large, "torch.utils.tensorboard"):
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    found = importlib.import_module("jitflow").__file__ or ""
    if tree not in Path(found).resolve().parents:
        sys.exit(f"jitflow comes from {found} instead of {tree}")


def _run_in_fork(command: Command, words: list[str], tree: Path, log: Path) -> int:
    """Run a command in a forked process; return its exit status."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        with log.open("w", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        application, path, _ = command.name.split("/")
        record_training(Path(f"{application}_{path}") / "training.jsonl")
        _run_here(words, tree)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 (a fork must never come back into the loop of its parent)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_here(words: list[str], tree: Path) -> None:
    program, *rest = words
    sys.argv = [program, *rest]
    if program == "jitflow":
        runpy.run_module("jitflow", run_name="__main__", alter_sys=True)
    else:
        # The scripts of the checkout; our own lies in the working directory.
        script = Path(program) if Path(program).exists() else tree / program
        runpy.run_path(str(script), run_name="__main__")


def record_training(target: Path) -> None:
    """Make every ``Trainer.fit`` of this process write the loss of each batch and validation, one JSON a line.

    The log files of a run are no measure: how often they are written is a setting of each application.

    Args:
        target: The file, which is made when a training starts.
    """
    import lightning.pytorch as pl

    class Recorder(pl.Callback):
        def write(self, **values: float) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
            self.write(step=trainer.global_step, loss=float(loss))

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self.write(step=trainer.global_step, **values)

    fit = pl.Trainer.fit

    @functools.wraps(fit)
    def fit_and_record(self: Any, *args: Any, **kwargs: Any) -> Any:
        # In front, so that it has written before a callback of the training can stop it.
        self.callbacks.insert(0, Recorder())
        return fit(self, *args, **kwargs)

    pl.Trainer.fit = fit_and_record
