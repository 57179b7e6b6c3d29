"""Commands that resume a run, or sample from its checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path

from jitflow.applications import list_applications
from jitflow.checkpoint.find import TRAINING_FOLDERS
from jitflow.run.folder import CONFIG_NAME, RUN_NAME, RunRecord


def sample_command(checkpoint: str | Path) -> str:
    """Return a command that samples from a checkpoint of any application."""
    return f"jitflow sample {shlex.quote(str(checkpoint))} --count 4"


def continue_command(folder: Path, training: Path, record: RunRecord | None, recorded: str) -> str:
    """Return the command that resumes a run in its current folder.

    Args:
        folder: The run's folder.
        training: Folder of its training.
        record: Its ``run.json``, if it has one.
        recorded: The command that started it, from the environment file; may be empty.

    Returns:
        The command; the recorded one if nothing better is known, which may name folders that have moved.
    """
    words = _tidy_command(record.command if record is not None and record.command else recorded)
    if words[:2] == ["jitflow", "demo"]:
        name = words[2] if len(words) > 2 and not words[2].startswith("-") else list_applications()[0]
        # The training of a demo is resumed by the demo command.
        is_stage = folder.name in TRAINING_FOLDERS and (folder.parent / RUN_NAME).is_file()
        return shlex.join(["jitflow", "demo", name, "--out", str(folder.parent if is_stage else folder)])
    if record is not None or (training / CONFIG_NAME).is_file():
        return shlex.join(["jitflow", "train", "--resume", str(training)])
    return shlex.join(words)


def _tidy_command(recorded: str) -> list[str]:
    """Split a command into words, with the program's name as a user types it."""
    try:
        words = shlex.split(recorded)
    except ValueError:
        return []
    if not words:
        return []
    program = Path(words[0]).name
    if program in ("jitflow", "__main__.py"):
        return ["jitflow", *words[1:]]
    return ["python", program, *words[1:]] if program.endswith(".py") else words
