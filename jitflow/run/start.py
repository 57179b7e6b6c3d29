"""Where a training begins: from nothing, from a checkpoint of its own folder or another, or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jitflow.applications import get_application
from jitflow.checkpoint.find import find_checkpoint, resume_point
from jitflow.checkpoint.lightning import recorded_application
from jitflow.checkpoint.recipe import held_recipe
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import load_checkpoint, read_json
from jitflow.run.folder import CONFIG_NAME, RUN_NAME, read_run_record
from jitflow.run.recipe import flatten, override, read_recipe
from jitflow.run.settings import changed_settings, complete, describe_changes

log = logging.getLogger(__name__)

AUTO = "auto"
_ASIDE = ".before-restart"
CONVERTED = "converted"
"""Folder in a run's, for a checkpoint of another format that its training begins with; none of the run's own."""
_SECTIONS = (
    *("seed_everything", "init_from", "init_ema", "model", "data"),
    *("trainer", "schedule", "checkpoint", "guard", "logging"),
)


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        checkpoint: What it goes on from; None to begin with fresh weights.
        is_finished: Whether nothing is left to train.
        is_same_run: Whether it goes on with the folder's own run, whose settings were found to be the same.
    """

    checkpoint: Path | None = None
    is_finished: bool = False
    is_same_run: bool = False


def find_start(recipe: Mapping[str, Any], run_dir: Path, resume: str | Path = AUTO) -> Start:
    """Decide where a training begins: the one rule of "the same run?" and "finished?".

    Args:
        recipe: Complete settings.
        run_dir: The run's folder.
        resume: ``"auto"``: an unfinished run of the same settings in the folder goes on, a finished one is left alone,
            another one is an error. A path: the checkpoint, or the newest of the folder, is gone on with.

    Returns:
        The start.

    Raises:
        ConfigError: If the folder holds another run; names what differs.
        MissingFileError: If there is nothing at the path.
        CheckpointError: If every checkpoint of the run is damaged.
    """
    if str(resume) != AUTO:
        return _start_from(find_checkpoint(resume), recipe, run_dir)
    found = resume_point(run_dir)
    if found is None:
        return Start()
    recorded = recorded_settings(run_dir, found)
    ways = "choose another folder, or --restart to throw it away"
    if recorded is None:
        raise ConfigError(
            f"{run_dir} holds a training without a record of its settings; --resume {run_dir} goes on with it all the "
            f"same; or {ways}"
        )
    changed = changed_settings(recorded, flatten(recipe))
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run with other settings: {describe_changes(changed)}; give the same, "
            f"--resume {run_dir} to go on with others, {ways}"
        )
    return Start(found, is_finished=is_finished(found, recipe), is_same_run=True)


def _start_from(checkpoint: Path, recipe: Mapping[str, Any], run_dir: Path) -> Start:
    own = resume_point(run_dir)
    if own is not None and checkpoint.resolve().parent != own.resolve().parent:
        recorded, theirs = recorded_recipe(run_dir, own), recorded_recipe(None, checkpoint)
        # A copy of a checkpoint of this very run, perhaps from before it was made longer.
        if recorded is None or theirs is None or changed_settings(flatten(theirs), flatten(recorded)):
            raise ConfigError(
                f"{run_dir} holds another run than {checkpoint}; leave the folder out to go on where the checkpoint "
                "lies, or choose an empty one"
            )
    before, now = recorded_settings(run_folder_of(checkpoint), checkpoint) or {}, flatten(recipe)
    if now["init_from"] not in (None, before.get("init_from")):
        raise ConfigError("resume goes on with a run, init_from begins a new one; give one of them")
    changed = {name: (before[name], now.get(name)) for name in before if before[name] != now.get(name)}
    if changed:
        log.info("going on with other settings: %s", describe_changes(changed, most=20))
    return Start(checkpoint, is_finished=is_finished(checkpoint, recipe))


def is_finished(checkpoint: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether a checkpoint lies at the end of what a recipe asks for, by epochs or by steps."""
    state = load_checkpoint(checkpoint)
    max_epochs, max_steps = recipe["trainer"].get("max_epochs"), recipe["trainer"].get("max_steps")
    by_epochs = max_epochs is not None and 0 < max_epochs <= epochs_done(state)
    by_steps = max_steps is not None and 0 < max_steps <= int(state.get("global_step", 0))
    return by_epochs or by_steps


def epochs_done(content: Mapping[str, Any]) -> int:
    """Return how many epochs a checkpoint's training finished; its own ``epoch`` differs by one after the last."""
    try:
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError):
        return int(content.get("epoch", -1)) + 1


def recorded_settings(run_dir: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Settings of a run by dotted name, as far as its folder or its checkpoint records them; None if they do not."""
    recipe = recorded_recipe(run_dir, checkpoint)
    if recipe is not None:
        return flatten(recipe)
    words = _former_words(run_dir, load_checkpoint(checkpoint))
    return None if words is None else words[1]


def recorded_recipe(run_dir: Path | None, checkpoint: Path | None) -> dict[str, Any] | None:
    """Find the complete recipe of a run.

    Args:
        run_dir: Its folder: ``run.json`` there, or the ``config.yaml`` of a version before it; None for no folder.
        checkpoint: One of its checkpoints; None for none.

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
    config = _former_config(run_dir) if run_dir is not None else None
    if config is None:
        return None
    try:
        return complete(config)
    except ConfigError:
        return None


def recipe_to_resume(path: str | Path) -> dict[str, Any]:
    """Return the recipe by which the run of a checkpoint or folder goes on when nothing else is said.

    Args:
        path: A checkpoint, a folder of them, or a run's folder.

    Raises:
        MissingFileError: If there is none.
        CheckpointError: If nothing says by which settings it was trained.
    """
    checkpoint = find_checkpoint(path)
    folder = run_folder_of(checkpoint)
    recipe = recorded_recipe(folder, checkpoint)
    if recipe is not None:
        return recipe
    words = _former_words(folder, load_checkpoint(checkpoint))
    if words is None:
        raise CheckpointError(
            f"nothing in {checkpoint} or beside it says by which settings it was trained; name them with `jitflow "
            "train --config RECIPE`, or start from its weights with --init_from"
        )
    return complete(override(read_recipe(words[0]), words[1]))


def resumed_folder(resume: str | Path | None, run_dir: str | Path | None, default: str | Path) -> Path:
    """Return the folder in which a run goes on, or a new one begins.

    Args:
        resume: What is gone on with: a checkpoint, a folder, ``"auto"`` for the run's folder; None for nothing.
        run_dir: Folder that was named; None where none was.
        default: Folder where nothing else says one.

    Returns:
        The folder that was named, else that of the run which is resumed, so that no other run is written over.

    Raises:
        MissingFileError: If there is nothing to resume.
    """
    if run_dir is not None:
        return Path(run_dir).expanduser()
    if resume is None or str(resume) == AUTO:
        return Path(default)
    checkpoint = find_checkpoint(resume)
    folder = run_folder_of(checkpoint)
    # A file of no run, such as one of the JiT release, begins a run elsewhere: what lies beside it is not ours.
    return folder if recorded_settings(folder, checkpoint) is not None else Path(default)


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run's folder that a checkpoint lies in: its own folder, or the one above ``checkpoints``."""
    folder = checkpoint.parent
    marks = (RUN_NAME, CONFIG_NAME, "training.json")
    return folder.parent if not any((folder / m).is_file() for m in marks) and folder.name == "checkpoints" else folder


def _former_config(run_dir: Path) -> dict[str, Any] | None:
    """The recipe in the ``config.yaml`` of a folder written before there was ``run.json``."""
    path = run_dir / CONFIG_NAME
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        return None
    return {name: config[name] for name in _SECTIONS if name in config}


def _former_words(run_dir: Path | None, checkpoint: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Recipe and dotted settings of a training by documented words from before there was ``run.json``."""
    name = recorded_application(checkpoint)
    application = get_application(name) if name else None
    if application is None or application.documented is None:
        return None
    path = None if run_dir is None else run_dir / "training.json"
    words = read_json(path).get("settings") if path is not None and path.is_file() else checkpoint.get("args")
    if not isinstance(words, Mapping) or "batch_size" not in words:
        return None
    settings = application.documented.settings(words)
    if "epochs" in words or "max_epochs" in words:
        return application.documented.recipe, settings
    return None


def clear_run(run_dir: Path) -> None:
    """Remove what a training wrote into its folder, and nothing else that may lie there.

    What its data keep there (``cache``) is named by its content and stays: the next training may have opened it.
    """
    for path in _written_by_a_run(run_dir):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    # Empty by now, unless something else lies there.
    with suppress(OSError):
        (run_dir / "checkpoints").rmdir()


@contextmanager
def run_set_aside(run_dir: Path, has_started: Callable[[], bool]) -> Iterator[None]:
    """Put a run out of the way of another, and back again if that one is refused before its first step.

    Args:
        run_dir: The run's folder.
        has_started: Whether the other training has begun, asked at the end of the block.
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


def _written_by_a_run(run_dir: Path) -> list[Path]:
    """Files and folders that a training wrote."""
    patterns = ("*.ckpt", "*.pth", ".*.ckpt", ".*.pth", "manifest.json")
    files = [
        file for pattern in patterns for place in (run_dir, run_dir / "checkpoints") for file in place.glob(pattern)
    ]
    names: tuple[str, ...] = ("csv", "tensorboard", "lightning_logs", "ema_snapshots", CONVERTED, RUN_NAME, CONFIG_NAME)
    names += ("environment.json", "data.json", "report.html", "training.json")
    return [*dict.fromkeys(files), *(run_dir / name for name in names if (run_dir / name).exists())]
