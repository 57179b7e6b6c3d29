"""From a file to a module: to sample, to continue a run, or to start another from its weights."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.training.formats import ModelState, read_state, write_state
from jitflow.training.jit_module import JiTLightningModule
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)

_LABEL_TABLE = "net.y_embedder.embedding_table.weight"


def load_module(
    path: str | Path,
    *,
    module_class: type[FlowModule] = JiTLightningModule,
    **given: Any,
) -> FlowModule:
    """Rebuild a module from a file of any format: weights, averages, settings.

    Args:
        path: A ``.ckpt``, a ``.pth`` (ours or the JiT release's) or a ``.safetensors``.
        module_class: Class to build.
        given: Settings that win over the file's.

    Returns:
        The module, in evaluation mode, on the CPU.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged or its weights do not fit; lists the names.
    """
    state = read_state(path, **given)
    recorded = (state.lightning or {}).get("jitflow", {}).get("module", "")
    if recorded and recorded != f"{module_class.__module__}.{module_class.__qualname__}":
        log.warning(
            "%s was trained as %s and is loaded as %s; pass module_class to keep what that class overrides",
            path,
            recorded,
            module_class.__qualname__,
        )
    try:
        module = module_class(**state.settings)
    except TypeError as error:
        raise CheckpointError(
            f"{path} holds settings that {module_class.__qualname__} does not take ({error})"
        ) from None
    check_state_dict(module.state_dict(), state.weights, path)
    module.load_state_dict(state.weights)
    averages = {"model_ema1": state.ema1, "model_ema2": state.ema2}
    seed = (state.lightning or {}).get("jitflow", {})
    module.on_load_checkpoint({"jitflow": seed, **{k: v for k, v in averages.items() if v is not None}})
    return module.eval()


def check_state_dict(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise CheckpointError, listing names, unless two state dicts have the same names and shapes."""
    missing = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unknown", foreign), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"the weights in {path} do not fit the model: {'; '.join(problems)}")


@torch.no_grad()
def init_from(module: FlowModule, path: str | Path, *, ema: int = 1) -> str:
    """Start a module from the weights of another, for fine-tuning; optimiser and epoch start anew.

    If the number of classes differs, the label table keeps its fresh values and everything else is taken.

    Args:
        module: The module to fill; its averages are emptied.
        path: A file of any format.
        ema: Average to take, 1 or 2; 0 for the weights themselves. Without an average the weights are taken.

    Returns:
        One line that says what was taken and what was not.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If anything but the label table does not fit.
    """
    state = read_state(path)
    if ema and state.ema1 is None:
        ema = 0
    weights, own = state.chosen(ema), module.state_dict()
    left_out = ""
    table = weights.get(_LABEL_TABLE)
    ours = own.get(_LABEL_TABLE)
    if table is not None and ours is not None and len(table) != len(ours) and table.shape[1:] == ours.shape[1:]:
        left_out = f", except the label table ({len(table) - 1} classes there, {module.num_classes} here)"
        weights = {**weights, _LABEL_TABLE: ours}
    check_state_dict(own, weights, path)
    module.load_state_dict(weights)
    module.ema_params1, module.ema_params2 = {}, {}
    source = f"EMA {ema}" if ema else "the weights"
    said = f"initialised {len(own)} tensors from {source} of {path}{left_out}"
    log.info(said)
    return said


def find_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint that a path means: a file, or the newest complete one of a folder.

    Args:
        path: A file, a folder of checkpoints, or a run's folder.

    Returns:
        A file that exists.

    Raises:
        MissingFileError: If there is none; never a silent start from nothing.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingFileError(f"there is no checkpoint at {path}: no such file or folder")
    found: Iterable[Path] = [
        file
        for folder in (path, path / "checkpoints")
        for pattern in ("*.pth", "*.ckpt")
        for file in folder.glob(pattern)
        if not file.is_symlink() and not file.name.startswith(".")
    ]
    for file in sorted(found, key=lambda f: f.stat().st_mtime_ns, reverse=True):
        # A file cut short lacks the directory at its end.
        if zipfile.is_zipfile(file):
            return file
        log.warning("%s is damaged; looking for an older checkpoint", file)
    raise MissingFileError(f"there is no complete checkpoint (.pth or .ckpt) in {path}")


def resumable(path: Path, module: FlowModule, scratch: Path) -> Path:
    """Return a checkpoint that Lightning can resume from; a file of the JiT release is converted first.

    Args:
        path: A checkpoint file.
        module: What will be resumed.
        scratch: Folder for the converted file.

    Returns:
        ``path`` itself, or the converted file.

    Raises:
        CheckpointError: If the file holds no optimiser, so that nothing could be continued, or another model.
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
    """Convert between the formats; see :func:`jitflow.training.formats.write_state`.

    Args:
        source: File to read.
        target: File to write; its suffix is the format.
        ema: For ``.safetensors``: which weights, 0, 1, 2 or ``"all"``.
        overwrite: Replace a target that exists; never the source itself.

    Returns:
        What was read.

    Raises:
        ConfigError: If the target exists.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        if source.exists() and target.samefile(source):
            raise ConfigError(f"{target} is the source itself; choose another target")
        if not overwrite:
            raise ConfigError(f"{target} exists already; choose another target, or say --overwrite")
    state = read_state(source)
    write_state(state, target, ema=ema)
    return state
