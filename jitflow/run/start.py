"""Decide whether a training starts from scratch, resumes from a checkpoint, or is finished already."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jitflow.applications import get_application
from jitflow.callbacks.training_pictures import FOLDER_NAME
from jitflow.checkpoint.find import find_checkpoint, resume_point
from jitflow.checkpoint.lightning import recorded_application
from jitflow.checkpoint.recipe import held_recipe
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import load_checkpoint, read_json, user_path
from jitflow.io.yaml_file import read_yaml
from jitflow.run.folder import CONFIG_NAME, RUN_NAME, read_run_record
from jitflow.run.recipe import flatten, override, read_recipe
from jitflow.run.settings import changed_settings, complete, describe_changes, fixed_settings, is_other
from jitflow.run.strategy import is_first_process

log = logging.getLogger(__name__)

AUTO = "auto"
_ASIDE = ".before-restart"
CONVERTED = "converted"
"""Sub-folder of a run for a converted checkpoint of another format that the training starts from."""
_RUN_FILES = (
    *("csv", "tensorboard", "lightning_logs", "ema_snapshots", FOLDER_NAME, CONVERTED, RUN_NAME, CONFIG_NAME),
    *("environment.json", "data.json", "report.html", "training.json"),
)
# Order of the data and all random draws depend on these; a resumed run has those of its checkpoint.
_KEPT_BY_THE_RUN = ("seed_everything", "data.seed")
_SECTIONS = (
    *("seed_everything", "init_from", "init_ema", "model", "data"),
    *("trainer", "schedule", "checkpoint", "guard", "pictures", "logging"),
)


@dataclass(frozen=True)
class Start:
    """Starting point of a training.

    Attributes:
        checkpoint: Checkpoint to resume from; None for fresh weights.
        is_finished: Whether the checkpoint is at the end of the training.
        is_same_run: Whether this resumes the folder's own run, with the same settings.
        changed: Settings that differ from those of the resumed run, by dotted name: its value and the new one.
        kept: Settings of the resumed run that override those of the recipe, by dotted name.
    """

    checkpoint: Path | None = None
    is_finished: bool = False
    is_same_run: bool = False
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


def find_start(recipe: Mapping[str, Any], run_dir: Path, resume: str | Path = AUTO) -> Start:
    """Find the checkpoint that a training starts from, and whether the run is finished.

    Args:
        recipe: Complete settings.
        run_dir: The run's folder.
        resume: ``"auto"``: an unfinished run with the same settings in the folder is resumed, a finished one is left
            unchanged, another run is an error. A path: resume from this checkpoint, or the newest of this folder.

    Returns:
        The starting point.

    Raises:
        ConfigError: If the folder holds another run; names the differing settings.
        MissingFileError: If the path does not exist.
        CheckpointError: If every checkpoint of the run is damaged.
    """
    if str(resume) != AUTO:
        return _start_from(find_checkpoint(resume), recipe, run_dir)
    found = resume_point(run_dir)
    if found is None:
        return Start()
    recorded = recorded_settings(run_dir, found)
    advice = "choose another folder, or --restart to delete it"
    if recorded is None:
        raise ConfigError(
            f"{run_dir} holds a training without a record of its settings; --resume {run_dir} to continue it anyway, "
            f"{advice}"
        )
    changed = changed_settings(recorded, flatten(recipe))
    if fixed_settings(changed) or any(name in changed for name in _KEPT_BY_THE_RUN):
        # Resuming could not change these.
        raise ConfigError(
            f"{run_dir} holds a run with other settings: {describe_changes(changed)}; a run keeps its model, optimiser "
            f"and seed: give the same, start a new run from its weights with --init_from {run_dir}, {advice}"
        )
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run with other settings: {describe_changes(changed)}; give the same, "
            f"--resume {run_dir} to continue with others, {advice}"
        )
    now = flatten(recipe)
    # Other settings, such as those of saving and logging, may differ in the same run.
    logged = {
        name: (recorded[name], now.get(name))
        for name in sorted(recorded)
        if is_other(recorded[name], now.get(name)) and not (name.startswith("model.") and now.get(name) is None)
    }
    return Start(found, is_finished(found, recipe), True, logged)


def _start_from(checkpoint: Path, recipe: Mapping[str, Any], run_dir: Path) -> Start:
    own = resume_point(run_dir)
    if own is not None and checkpoint.resolve().parent != own.resolve().parent:
        own_recipe, other_recipe = recorded_recipe(run_dir, own), recorded_recipe(None, checkpoint)
        # A copy of a checkpoint of this run is accepted, also with another length.
        if own_recipe is None or other_recipe is None or changed_settings(flatten(other_recipe), flatten(own_recipe)):
            raise ConfigError(
                f"{run_dir} holds another run than {checkpoint}; leave out --run_dir to resume in the checkpoint's own "
                "folder, or choose an empty folder"
            )
    finished = is_finished(checkpoint, recipe)
    if finished and own is None:
        raise ConfigError(
            f"{checkpoint} has reached the requested epochs or steps, and {run_dir} holds no run; request "
            "more to train longer, or start a new run from its weights with --init_from"
        )
    before, now = recorded_settings(run_folder_of(checkpoint), checkpoint) or {}, flatten(recipe)
    if now["init_from"] not in (None, before.get("init_from")):
        raise ConfigError("resume continues a run, init_from starts a new one; give one of them")
    changed = {name: (before[name], now.get(name)) for name in before if is_other(before[name], now.get(name))}
    kept = {name: before[name] for name in _KEPT_BY_THE_RUN if name in changed and before[name] is not None}
    changed = {name: pair for name, pair in changed.items() if name not in kept}
    return Start(checkpoint, finished, False, changed, kept)


def is_finished(checkpoint: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has reached the epochs or steps of a recipe, or its training was stopped early."""
    state = load_checkpoint(checkpoint)
    max_epochs, max_steps = recipe["trainer"].get("max_epochs"), recipe["trainer"].get("max_steps")
    by_epochs = max_epochs is not None and 0 < max_epochs <= epochs_done(state)
    by_steps = max_steps is not None and 0 < max_steps <= int(state.get("global_step", 0))
    return by_epochs or by_steps or _is_stopped_early(state)


def _is_stopped_early(state: Mapping[str, Any]) -> bool:
    """Whether Lightning's EarlyStopping has ended the training of a checkpoint."""
    callbacks = state.get("callbacks") or {}
    stopping = [value for name, value in callbacks.items() if str(name).startswith("EarlyStopping")]
    return any(isinstance(value, Mapping) and value.get("stopped_epoch", 0) > 0 for value in stopping)


def epochs_done(content: Mapping[str, Any]) -> int:
    """Return the number of finished epochs of a checkpoint; its ``epoch`` entry is off by one after the last."""
    try:
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError):
        return int(content.get("epoch", -1)) + 1


def recorded_settings(run_dir: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Return a run's settings by dotted name, as recorded in its folder or checkpoint; None if neither has them."""
    recipe = recorded_recipe(run_dir, checkpoint)
    if recipe is not None:
        return flatten(recipe)
    legacy = _legacy_settings(run_dir, load_checkpoint(checkpoint))
    return None if legacy is None else legacy[1]


def recorded_recipe(run_dir: Path | None, checkpoint: Path | None) -> dict[str, Any] | None:
    """Find the recorded recipe of a run, completed with defaults.

    Args:
        run_dir: The run's folder, with ``run.json`` or the ``config.yaml`` of an earlier version; None for no folder.
        checkpoint: A checkpoint of the run; None for none.

    Returns:
        The recipe; None if neither holds one.
    """
    record = read_run_record(run_dir) if run_dir is not None else None
    if record is not None and record.recipe:
        return record.recipe
    if checkpoint is not None:
        held = held_recipe(load_checkpoint(checkpoint))
        if held is not None:
            return held
    config = _legacy_config(run_dir) if run_dir is not None else None
    if config is None:
        return None
    try:
        return complete(config)
    except ConfigError:
        return None


def recipe_to_resume(path: str | Path) -> dict[str, Any]:
    """Return the recorded recipe to resume the run of a checkpoint or folder with.

    Args:
        path: A checkpoint, a folder of them, or a run's folder.

    Raises:
        MissingFileError: If there is no checkpoint.
        CheckpointError: If the settings of the training are not recorded.
    """
    checkpoint = find_checkpoint(path)
    folder = run_folder_of(checkpoint)
    recipe = recorded_recipe(folder, checkpoint)
    if recipe is not None:
        return recipe
    legacy = _legacy_settings(folder, load_checkpoint(checkpoint))
    if legacy is None:
        raise CheckpointError(
            f"the training settings of {checkpoint} are not recorded in it or beside it; name them with `jitflow train "
            "--config RECIPE`, or start from its weights with --init_from"
        )
    return complete(override(read_recipe(legacy[0]), legacy[1]))


def resumed_folder(resume: str | Path | None, run_dir: str | Path | None, default: str | Path) -> Path:
    """Return the folder to resume a run in, or to start a new run in.

    Args:
        resume: Checkpoint or folder to resume from, ``"auto"`` for the run's folder; None for a new run.
        run_dir: Folder that the user named; None if not given.
        default: Folder if neither names one.

    Returns:
        ``run_dir`` if given, else the folder of the resumed run, so that no other run is overwritten.

    Raises:
        MissingFileError: If there is nothing to resume.
    """
    if run_dir is not None:
        return user_path(run_dir)
    if resume is None or str(resume) == AUTO:
        return Path(default)
    checkpoint = find_checkpoint(resume)
    folder = run_folder_of(checkpoint)
    # A file outside any run, such as one of the JiT release, starts a run elsewhere: its folder is not ours.
    return folder if recorded_settings(folder, checkpoint) is not None else Path(default)


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run's folder of a checkpoint: its parent folder, or the one above ``checkpoints``."""
    folder = checkpoint.parent
    marks = (RUN_NAME, CONFIG_NAME, "training.json")
    return folder.parent if not any((folder / m).is_file() for m in marks) and folder.name == "checkpoints" else folder


def _legacy_config(run_dir: Path) -> dict[str, Any] | None:
    """Return the recipe in the ``config.yaml`` of a folder that predates ``run.json``."""
    path = run_dir / CONFIG_NAME
    config = read_yaml(path) if path.is_file() else None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        return None
    return {name: config[name] for name in _SECTIONS if name in config}


def _legacy_settings(run_dir: Path | None, checkpoint: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return recipe name and dotted settings of a training by documented options that predates ``run.json``."""
    name = recorded_application(checkpoint)
    application = get_application(name) if name else None
    if application is None or application.documented is None:
        return None
    path = None if run_dir is None else run_dir / "training.json"
    options = read_json(path).get("settings") if path is not None and path.is_file() else checkpoint.get("args")
    if not isinstance(options, Mapping) or "batch_size" not in options:
        return None
    settings = application.documented.settings(options)
    if "epochs" in options or "max_epochs" in options:
        return application.documented.recipe, settings
    return None


def clear_run(run_dir: Path) -> None:
    """Delete the files that a training wrote into its folder, and no others.

    The data cache (``cache``) is named by its content and stays: the next training may already have opened it.
    """
    for path in _written_by_a_run(run_dir):
        _delete(path)
    # Fails if the folder holds other files.
    with suppress(OSError):
        (run_dir / "checkpoints").rmdir()


@contextmanager
def run_set_aside(run_dir: Path, has_started: Callable[[], bool]) -> Iterator[None]:
    """Move a run's files aside for a new training, and back if that training does not start.

    Args:
        run_dir: The run's folder.
        has_started: Called at the end of the block; whether the new training has started.
    """
    aside = run_dir / _ASIDE
    for path in _written_by_a_run(run_dir):
        kept = aside / path.relative_to(run_dir)
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.rename(kept)
    try:
        yield
    finally:
        if not has_started():
            clear_run(run_dir)
            for path in _written_by_a_run(aside):
                back = run_dir / path.relative_to(aside)
                back.parent.mkdir(parents=True, exist_ok=True)
                path.rename(back)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def nothing_left_of_a_refused_run(run_dir: Path) -> Iterator[None]:
    """Delete what a training that did not start (refused, or a dry run) wrote into its folder, and a folder it made.

    Files that were there before stay, as does a folder with a run.

    Args:
        run_dir: The run's folder.
    """
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    # No checkpoints, which such a training does not write.
    places = [run_dir / name for name in (*_RUN_FILES, "cache")]
    places = made[:1] or [place for place in places if not place.exists()]
    # Removed only while they are empty.
    empty = made[1:] or [folder for folder in [run_dir / "checkpoints"] if not folder.exists()]
    try:
        yield
    finally:
        if is_first_process() and not (run_dir / RUN_NAME).exists():
            # What cannot be deleted, perhaps because something else is writing there, stays.
            for place in places:
                with suppress(OSError):
                    _delete(place)
            for folder in empty:
                with suppress(OSError):
                    folder.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _written_by_a_run(run_dir: Path) -> list[Path]:
    """List the files and folders that a training wrote."""
    patterns = ("*.ckpt", "*.pth", ".*.ckpt", ".*.pth", "manifest.json")
    files = [
        file for pattern in patterns for place in (run_dir, run_dir / "checkpoints") for file in place.glob(pattern)
    ]
    return [*dict.fromkeys(files), *(run_dir / name for name in _RUN_FILES if (run_dir / name).exists())]
