"""What the demos share: one folder belongs to one set of settings, and only what a demo wrote is removed."""

from __future__ import annotations

import json
import shutil
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
