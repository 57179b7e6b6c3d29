"""A run's folder, which explains itself: the resolved settings, the machine, the seed, the command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml

import jitflow
from jitflow.io.files import write_json, write_text

CONFIG_NAME = "config.yaml"
ENVIRONMENT_NAME = "environment.json"


def describe_environment() -> dict[str, Any]:
    """Describe what a result depends on besides the settings: versions, device, commit, command."""
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
    """Write the settings and the environment of a run into its folder, which is made.

    Args:
        folder: The run's folder.
        settings: Resolved settings, as plain values or as YAML text.
        seed: Seed of the run.

    Returns:
        The folder.
    """
    folder = Path(folder)
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False)
    write_text(folder / CONFIG_NAME, text)
    write_json(folder / ENVIRONMENT_NAME, {**describe_environment(), "seed": seed})
    return folder


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, ``+`` appended if it was changed; None if installed."""
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
