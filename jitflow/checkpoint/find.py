"""Find the newest intact checkpoint of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jitflow.checkpoint.folder import CheckpointFolder
from jitflow.errors import CheckpointError, MissingFileError
from jitflow.io.files import user_path

log = logging.getLogger(__name__)
TRAINING_FOLDERS = ("trained_models", "training")
"""Sub-folders in which pipelines of several stages keep their training."""
WEIGHTS_NAME = "model.safetensors"
"""File of the weights in the folder of an exported model."""


def find_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint of a path: the file itself, or the newest intact one in a folder.

    A checkpoint is intact if size and checksum agree with the folder's ``manifest.json``; without an entry or a
    manifest it is only checked for truncation.

    Args:
        path: A file, a folder of checkpoints, or a run's folder.

    Returns:
        A file that exists.

    Raises:
        MissingFileError: If there is none; training never silently starts from scratch.
        CheckpointError: If the file itself is damaged.
    """
    path = user_path(path)
    if path.is_file():
        _check_intact(path)
        return path
    if not path.is_dir():
        raise MissingFileError(f"there is no checkpoint at {path}: no such file or folder")
    found = _newest_intact(path)
    if found is None:
        raise _nothing_in(path)
    return found


def find_model(path: str | Path) -> Path:
    """Find the checkpoint to sample, evaluate or export: a file itself, or the best of a run's folder, else its last.

    Which one it is is logged. In the folder of an exported model it is the file of the weights.

    Args:
        path: A file, which need not exist, a run's folder, a folder of checkpoints, or that of an exported model.

    Returns:
        The file.

    Raises:
        MissingFileError: If a folder holds no intact checkpoint.
    """
    path = user_path(path)
    if not path.is_dir():
        return path
    if (path / WEIGHTS_NAME).is_file() and not any(_folders(path)):
        return path / WEIGHTS_NAME
    found, which = best_or_last(path)
    log.info("%s: its %s checkpoint, %s", path, which, found.name)
    return found


def best_or_last(folder: str | Path) -> tuple[Path, str]:
    """Return the best checkpoint of a run's folder, or its last one if none was saved as the best, and which it is.

    Raises:
        MissingFileError: If the folder holds no intact checkpoint.
    """
    folder = user_path(folder)
    # The training of a run of several stages is in a sub-folder.
    stages = [folder, *(folder / name for name in TRAINING_FOLDERS)]
    for place in [place for stage in stages for place in _folders(stage)]:
        records = place.records()
        for name in reversed(place.names_of_kind("best")):
            file = place.folder / name
            if file.is_file() and place.problem(file, records) is None:
                return file, "best"
    for stage in stages:
        newest = _newest_intact(stage)
        if newest is not None:
            return newest, "last"
    raise _nothing_in(folder)


def _nothing_in(folder: Path) -> MissingFileError:
    return MissingFileError(f"there is no complete checkpoint (.pth or .ckpt) in {folder}")


def resume_point(path: str | Path) -> Path | None:
    """Find the checkpoint from which to resume a run that may have been interrupted.

    Args:
        path: The run's folder, or that of its checkpoints.

    Returns:
        The newest intact checkpoint; None if the run has none yet and starts from scratch.

    Raises:
        CheckpointError: If all existing checkpoints are damaged, since a new start would silently lose them.
    """
    path = user_path(path)
    found = _newest_intact(path)
    if found is None and any(_folders(path)):
        raise CheckpointError(f"every checkpoint in {path} is damaged; restore one, or choose another folder")
    return found


def _folders(path: Path) -> list[CheckpointFolder]:
    """Return the folders of a run that hold checkpoints."""
    folders = (CheckpointFolder(folder) for folder in (path, path / "checkpoints"))
    return [folder for folder in folders if folder.checkpoints()]


def _newest_intact(path: Path) -> Path | None:
    found = [(file, folder, folder.records()) for folder in _folders(path) for file in folder.checkpoints()]
    steps = {file: folder.step_of(file, records) for file, folder, records in found}
    # File times give the order of saves, unless the folder was copied; but not every file is in the manifest.
    recorded = None not in steps.values()

    def age(item: tuple[Path, CheckpointFolder, Any]) -> tuple[int, int]:
        return (steps[item[0]] or 0) if recorded else 0, item[0].stat().st_mtime_ns

    for file, folder, records in sorted(found, key=age, reverse=True):
        problem = folder.problem(file, records)
        if problem is None:
            return file
        log.warning("%s is damaged (%s); looking for an older checkpoint", file, problem)
    return None


def _check_intact(path: Path) -> None:
    """Raise CheckpointError, naming the next best checkpoint, if a file disagrees with the manifest."""
    file = path.resolve()
    folder = CheckpointFolder(file.parent)
    records = folder.records()
    if file.name not in records or (problem := folder.problem(file, records)) is None:
        return
    other = _newest_intact(file.parent)
    instead = f"use {other}" if other else "restore it"
    raise CheckpointError(
        f"{path} is damaged ({problem}); {instead}, or remove {folder.manifest} if the file was changed on purpose"
    )
