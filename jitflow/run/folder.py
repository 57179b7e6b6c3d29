"""Files of a run's folder: its settings, its environment, and ``run.json`` with its state and progress."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import lightning
import torch

import jitflow
from jitflow.errors import ConfigError
from jitflow.io.files import read_json, write_json, write_text
from jitflow.io.yaml_file import format_yaml

RUN_NAME = "run.json"
CONFIG_NAME = "config.yaml"
ENVIRONMENT_NAME = "environment.json"
DATA_NAME = "data.json"
"""Record of a run's data in folders that predate run.json."""
RunState = Literal["running", "finished", "interrupted", "failed"]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Content of ``run.json``: application, recipe, state and progress of a run.

    Attributes:
        application: Its application's name; empty for a module that belongs to none.
        recipe: Complete settings, as :func:`jitflow.run.settings.complete` gives them.
        state: State of the run; it stays ``running`` if the process is killed.
        data: Sizes and fingerprint of the training data.
        epochs: Finished epochs when the state was written.
        steps: Optimiser steps when the state was written.
        score: Name and value of the headline score; None if there is none yet.
        command: Command that resumes the run, or reports a finished one, from the folder it was started in.
        detail: Reason of a failure, in one line; else empty.
    """

    application: str
    recipe: dict[str, Any]
    state: RunState
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 0
    steps: int = 0
    score: tuple[str, float] | None = None
    command: str = ""
    detail: str = ""


def write_run_record(folder: str | Path, record: RunRecord) -> None:
    """Write ``run.json`` into a run's folder, which is created if missing."""
    write_json(Path(folder) / RUN_NAME, dataclasses.asdict(record))


def read_run_record(folder: str | Path) -> RunRecord | None:
    """Read ``run.json`` of a run's folder.

    Args:
        folder: The run's folder.

    Returns:
        The record; None if there is none, as in folders of earlier versions.

    Raises:
        ConfigError: If the file is damaged; names it.
    """
    path = Path(folder) / RUN_NAME
    if not path.is_file():
        return None
    content = read_json(path)
    names = {f.name for f in dataclasses.fields(RunRecord)}
    try:
        record = RunRecord(**{name: value for name, value in content.items() if name in names})
        kinds = {"application": str, "recipe": dict, "data": dict, "epochs": int, "steps": int, "command": str}
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(record, name), kind)]
        if wrong or record.state not in get_args(RunState):
            raise TypeError(f"{', '.join(wrong) or 'state'} of a wrong kind")
        score = None if record.score is None else (str(record.score[0]), float(record.score[1]))
        return dataclasses.replace(record, score=score)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); remove it, and the run is described from its checkpoints"
        ) from None


@contextmanager
def outcome_recorded(write: Callable[[RunState, str], None]) -> Iterator[None]:
    """Record the outcome of the run inside the block, also after an exception.

    Args:
        write: Called at the end with ``finished``, ``interrupted`` or ``failed``, and a one-line reason of a failure.
    """
    state: RunState = "failed"
    detail = ""
    try:
        yield
        state = "finished"
    except (KeyboardInterrupt, SystemExit):
        state = "interrupted"
        raise
    except BaseException as error:
        detail = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise
    finally:
        write(state, detail)


def describe_environment() -> dict[str, Any]:
    """Describe the environment of a run: versions, device, commit, command."""
    return {
        "jitflow": jitflow.__version__,
        "commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "cpu_count": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "command": shlex.join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_run_folder(folder: str | Path, settings: dict[str, Any] | str, *, seed: int | None) -> Path:
    """Write the settings and the environment of a run into its folder, which is created if missing.

    Args:
        folder: The run's folder.
        settings: Resolved settings, as plain values or as YAML text.
        seed: Seed of the run.

    Returns:
        The folder.
    """
    folder = Path(folder)
    text = settings if isinstance(settings, str) else format_yaml(settings)
    write_text(folder / CONFIG_NAME, text)
    write_json(folder / ENVIRONMENT_NAME, {**describe_environment(), "seed": seed})
    return folder


def _git_commit() -> str | None:
    """Return the git commit of this package's checkout, with ``+`` if modified; None if installed."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode != 0:
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
