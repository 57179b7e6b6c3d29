"""What the demos share: whose folder it is, what a restart removes, and how long each stage took."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jitflow.errors import ConfigError


def check_same_run(path: Path, recorded: Any, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a folder's record is that of the run which is asked for.

    Args:
        path: File of the record, in the run's folder.
        recorded: What it holds, plain values.
        settings: What the run would write there.
    """
    if recorded != json.loads(json.dumps(settings)):
        out = path.parent
        raise ConfigError(f"{out} holds a run with other settings (see {path}); use --restart or another --out")


def remove_run(out: Path, *, folders: Iterable[str], files: Iterable[str]) -> None:
    """Remove what a demo writes, and nothing else that may lie in the folder.

    Args:
        out: The run's folder.
        folders: Names of the folders that it writes.
        files: Names of the files that it writes.
    """
    for name in folders:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in files:
        (out / name).unlink(missing_ok=True)


class Laps:
    """Seconds of the stages of a demo.

    Args:
        done: Stages that were timed elsewhere, by name.

    Attributes:
        seconds: Seconds of each stage, in their order.
    """

    def __init__(self, **done: float) -> None:
        self.seconds = dict(done)
        self._started = time.monotonic()

    def lap(self, name: str) -> None:
        """End a stage, which began with the object or with the stage before."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._started, 1)
        self._started = now
