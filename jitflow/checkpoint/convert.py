"""Convert checkpoints between file formats, on demand or to resume from a release's file."""

from __future__ import annotations

import logging
from pathlib import Path

from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.load import check_state_dict
from jitflow.checkpoint.state import ModelState
from jitflow.errors import CheckpointError, ConfigError
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)


def resumable(path: Path, module: FlowModule, scratch: Path) -> Path:
    """Return a checkpoint from which Lightning can resume; a file of the JiT release is converted first.

    Args:
        path: A checkpoint file.
        module: The module to resume.
        scratch: Folder for the converted file.

    Returns:
        ``path`` itself, or the converted file.

    Raises:
        CheckpointError: If the file holds no optimiser state to resume from, or another model.
    """
    state = read_state(path)
    check_state_dict(module.state_dict(), state.weights, path)
    if state.optimizer is None:
        raise CheckpointError(f"{path} holds no optimiser to continue with; use it with --init_from instead")
    if state.lightning is not None:
        return path
    log.info("%s is a checkpoint of the JiT release, %d epochs done; converting", path, state.epoch + 1)
    return write_state(state, scratch / f"from-release-{path.stem}.ckpt")


def convert(source: str | Path, target: str | Path, *, ema: int | str = 1, overwrite: bool = False) -> ModelState:
    """Convert a checkpoint to another file format; see :func:`jitflow.checkpoint.formats.write_state`.

    Args:
        source: File to read.
        target: File to write; its suffix sets the format.
        ema: For ``.safetensors``: which weights, 0, 1, 2 or ``"all"``.
        overwrite: Whether to replace an existing target; never the source itself.

    Returns:
        The model that was read.

    Raises:
        ConfigError: If the target exists.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        if source.exists() and target.samefile(source):
            raise ConfigError(f"{target} is the source itself; choose another target")
        if not overwrite:
            raise ConfigError(f"{target} exists already; choose another target, or pass --overwrite")
    state = read_state(source)
    write_state(state, target, ema=ema)
    return state
