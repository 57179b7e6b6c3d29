"""From a file to a module: to sample, to continue a run, or to start another from its weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.applications import application_name, get_application
from jitflow.checkpoint.folder import CheckpointFolder
from jitflow.checkpoint.formats import ModelState, errors_of_damage, read_state, write_state
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)

# Sizes of images and seeds may be larger than a tiny network.
_HARMLESS = 1 << 20
_LABEL_TABLE = "net.y_embedder.embedding_table.weight"


def load_module(
    path: str | Path,
    *,
    module_class: type[FlowModule] | None = None,
    **given: Any,
) -> FlowModule:
    """Rebuild a module from a file of any format: weights, averages, settings.

    Args:
        path: A ``.ckpt``, a ``.pth`` (ours or the JiT release's) or a ``.safetensors``.
        module_class: Class to build; by default that of the application which the file names.
        given: Settings that win over the file's.

    Returns:
        The module, in evaluation mode, on the CPU.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged or its weights do not fit; lists the names.
    """
    state = read_state(path, **given)
    recorded = state.module
    if module_class is None:
        module_class = get_application(application_name(recorded)).module
        _check_size(module_class, state, path)
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
    averages = {"model_ema1": state.ema1, "model_ema2": state.ema2}
    with errors_of_damage(path):
        module.load_state_dict(state.weights)
        module.on_load_checkpoint({"jitflow": state.extra, **{k: v for k, v in averages.items() if v is not None}})
    return module.eval()


def _check_size(module_class: type[FlowModule], state: ModelState, path: str | Path) -> None:
    """Build a module without memory and compare it with the weights, before settings of a file can ask for any."""
    in_all = sum(value.numel() for value in state.weights.values())
    largest = max(_numbers(state.settings), default=0)
    if largest > max(in_all, _HARMLESS) or _depth(state.settings) > len(state.weights):
        raise CheckpointError(f"{path} is damaged: its settings are of a network that its weights cannot be of")
    try:
        with errors_of_damage(path), torch.device("meta"):
            expected = module_class(**state.settings).state_dict()
    except CheckpointError as error:
        if isinstance(error.__cause__, TypeError):
            # Told by the caller, with the name of the class.
            return
        raise
    check_state_dict(expected, state.weights, path)


def _numbers(settings: object) -> Iterator[int]:
    """Every whole number in nested settings."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _numbers(value)
    elif isinstance(settings, int):
        yield settings


def _depth(settings: Mapping[str, Any]) -> int:
    net = settings.get("net_settings")
    depth = net.get("depth", 0) if isinstance(net, Mapping) else 0
    return depth if isinstance(depth, int) else 0


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
    """Find the checkpoint that a path means: a file, or the newest whole one of a folder.

    Whole is what has the size and the checksum that the folder's ``manifest.json`` gives for it; a file that is not
    in it, or a folder without one, is only looked at for being cut short.

    Args:
        path: A file, a folder of checkpoints, or a run's folder.

    Returns:
        A file that exists.

    Raises:
        MissingFileError: If there is none; never a silent start from nothing.
        CheckpointError: If the file itself is damaged.
    """
    path = Path(path).expanduser()
    if path.is_file():
        _check_whole(path)
        return path
    if not path.is_dir():
        raise MissingFileError(f"there is no checkpoint at {path}: no such file or folder")
    found = _newest_whole(path)
    if found is None:
        raise MissingFileError(f"there is no complete checkpoint (.pth or .ckpt) in {path}")
    return found


def resume_point(path: str | Path) -> Path | None:
    """Find where a run that may have been cut off is to go on.

    Args:
        path: The run's folder, or that of its checkpoints.

    Returns:
        The newest whole checkpoint; None if the run has none yet, so that it begins.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged, so that beginning anew would be a silent loss.
    """
    path = Path(path).expanduser()
    found = _newest_whole(path)
    if found is None and any(_folders(path)):
        raise CheckpointError(f"every checkpoint in {path} is damaged; restore one, or choose another folder")
    return found


def _folders(path: Path) -> list[CheckpointFolder]:
    """The folders among a run's that hold checkpoints."""
    folders = (CheckpointFolder(folder) for folder in (path, path / "checkpoints"))
    return [folder for folder in folders if folder.checkpoints()]


def _newest_whole(path: Path) -> Path | None:
    found = [(file, folder, folder.records()) for folder in _folders(path) for file in folder.checkpoints()]
    steps = {file: folder.step_of(file, records) for file, folder, records in found}
    # The clock tells what was saved last, unless the folder was copied; but not every file was written down.
    recorded = None not in steps.values()

    def age(item: tuple[Path, CheckpointFolder, Any]) -> tuple[int, int]:
        return (steps[item[0]] or 0) if recorded else 0, item[0].stat().st_mtime_ns

    for file, folder, records in sorted(found, key=age, reverse=True):
        problem = folder.problem(file, records)
        if problem is None:
            return file
        log.warning("%s is damaged (%s); looking for an older checkpoint", file, problem)
    return None


def _check_whole(path: Path) -> None:
    """Raise CheckpointError, naming the next best, if a file is not what was written down about it."""
    file = path.resolve()
    folder = CheckpointFolder(file.parent)
    records = folder.records()
    if file.name not in records or (problem := folder.problem(file, records)) is None:
        return
    other = _newest_whole(file.parent)
    instead = f"use {other}" if other else "restore it"
    raise CheckpointError(
        f"{path} is damaged ({problem}); {instead}, or remove {folder.manifest} if the file was changed on purpose"
    )


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
    """Convert between the formats; see :func:`jitflow.checkpoint.formats.write_state`.

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
