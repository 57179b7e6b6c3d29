"""Describe runs from their folders: state, progress, best score, and the next command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from jitflow.applications import BUILT_IN, application_name, get_application
from jitflow.checkpoint.find import TRAINING_FOLDERS
from jitflow.checkpoint.folder import CheckpointFolder, Record
from jitflow.checkpoint.lightning import recorded_application
from jitflow.checkpoint.state import errors_of_damage
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.evaluation.report import TRAINED_ON, is_report, is_score, is_trained_on
from jitflow.io.files import load_checkpoint, read_json
from jitflow.io.folder_lock import live_holder
from jitflow.io.units import size_on_disk
from jitflow.io.yaml_file import read_yaml
from jitflow.run.curves import Curve, history_curve, read_curves
from jitflow.run.folder import CONFIG_NAME, DATA_NAME, ENVIRONMENT_NAME, RUN_NAME, RunRecord, read_run_record
from jitflow.run.next_command import continue_command, sample_command
from jitflow.run.start import epochs_done
from jitflow.training.ema_history import EMAHistory
from jitflow.training.trained_on import read_spaces, trained_on_note

log = logging.getLogger(__name__)

State = Literal["finished", "unfinished", "damaged"]
PLACES = ("runs", "outputs", "output", "run")
"""Default folders of runs in the working directory."""
_MAX_DEPTH = 4
# Scores by preference; the first one found is the headline of the run.
_REPORTS = ("metrics.json", "evaluation/evaluation.json", "evaluation/report.json", "report.json")
_LOWEST = ("eval/fid", "eval/held_out", "val/loss_ema", "val/loss", "train/loss")


@dataclass(frozen=True)
class Run:
    """Description of a run, from its folder.

    Attributes:
        folder: The folder.
        training: Folder of its training: the same, or a sub-folder if the run has other stages too.
        application: Name of its application; empty if unknown.
        network: Name of the network; empty if unknown.
        state: Whether it is finished, unfinished, or has only damaged checkpoints.
        detail: Reason for the state, in a few words.
        steps: Optimiser steps done.
        epochs: Finished epochs.
        score: Name and value of its headline score; None if there is none.
        num_bytes: Size on disk.
        changed: When it last changed, in UTC.
        checkpoint: Newest intact checkpoint; None if there is none.
        best: Checkpoint of the lowest validation loss; None if there is none.
        command: Next command: resume, or sample if it is finished; empty if unknown.
        continuation: Command that resumes it, even if it is finished; empty if unknown.
        settings: Resolved settings of the training.
        environment: Machine, versions and command of the run.
        data: Sizes and fingerprint of the training data.
        history: Losses stored in the checkpoint.
        note: Warning about its samples; empty if there is none.
        in_use: Process that is writing into the folder; empty if there is none.
    """

    folder: Path
    training: Path
    application: str
    network: str
    state: State
    detail: str
    steps: int
    epochs: int
    score: tuple[str, float] | None
    num_bytes: int
    changed: datetime
    checkpoint: Path | None
    command: str
    continuation: str = ""
    best: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    history: Curve = field(default_factory=list)
    note: str = ""
    in_use: str = ""


def find_runs(folders: Sequence[str | Path]) -> list[Path]:
    """Find the folders of runs in and below given folders, sorted by name; nested runs belong to the outer run.

    Raises:
        MissingFileError: If one of the folders does not exist.
    """
    found: list[Path] = []
    for candidate in map(Path, folders):
        if not candidate.is_dir():
            raise MissingFileError(f"there is no folder {candidate}; name the folder of your runs: jitflow runs FOLDER")
        found += _below(candidate, _MAX_DEPTH)
    # A run that links lead to as well is named by its own place, or by the shortest path.
    found.sort(key=lambda run: (run.absolute() == run.resolve(), -len(run.parts), run))
    return sorted({run.resolve(): run for run in found}.values())


def training_folder(folder: str | Path) -> Path | None:
    """Return the training folder of a run: the folder itself, a stage inside it, or None if it is not a run."""
    folder = Path(folder)
    marks = (RUN_NAME, ENVIRONMENT_NAME, "training.json")
    trained = {
        candidate: bool(_checkpoint_folders(candidate))
        for candidate in (folder, *(folder / name for name in TRAINING_FOLDERS))
    }
    found = [
        candidate for candidate in trained if trained[candidate] or any((candidate / mark).is_file() for mark in marks)
    ]
    # A run of several stages has its own record beside the folder of its training's checkpoints.
    return next((candidate for candidate in found if trained[candidate]), found[0] if found else None)


def describe_run(folder: str | Path) -> Run:
    """Describe a run from the files in its folder, even if the folder was moved.

    Args:
        folder: The run's folder.

    Returns:
        The description.

    Raises:
        MissingFileError: If there is no such folder.
        ConfigError: If it holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder}; `jitflow runs` lists the runs there are")
    training = training_folder(folder)
    if training is None:
        raise ConfigError(
            f"{folder} holds no run (no {ENVIRONMENT_NAME}, no checkpoints); `jitflow runs` lists the runs there are"
        )
    with errors_of_damage(folder):
        return _describe(folder, training)


def _describe(folder: Path, training: Path) -> Run:
    environment, record = _plain_json(training / ENVIRONMENT_NAME), _record(training)
    whole = _record(folder) if folder != training else None
    settings = record.recipe if record is not None and record.recipe else _settings(training)
    checkpoint, content, problem = _newest_checkpoint(training)
    application = _application(record, content, settings)
    steps, epochs = int(content.get("global_step", 0)), epochs_done(content)
    state, detail = _state(folder, training, record, whole, settings, steps, epochs, problem, checkpoint)
    continuation = continue_command(folder, training, whole or record, str(environment.get("command", "")))
    next_command = sample_command(checkpoint) if state == "finished" and checkpoint is not None else continuation
    hyper = content.get("hyper_parameters", {})
    return Run(
        folder=folder,
        training=training,
        application=application,
        network=str(hyper.get("model_name") or _network(settings)),
        state=state,
        detail=detail,
        steps=steps,
        epochs=epochs,
        score=best_score(folder, training, application),
        num_bytes=size_on_disk(folder),
        changed=_changed(training, folder),
        checkpoint=checkpoint,
        best=_best_checkpoint(training, settings),
        command=next_command,
        continuation=continuation,
        settings=settings,
        environment=environment,
        data=record.data if record is not None and record.data else _plain_json(training / DATA_NAME),
        history=history_curve(content),
        note=_note(content),
        in_use=next((holder.name for place in {training, folder} if (holder := live_holder(place))), ""),
    )


def _note(content: Mapping[str, Any]) -> str:
    """Return a line on an average that holds its start, and on the feature spaces that a checkpoint was trained on."""
    start = EMAHistory.of_checkpoint(content).start_warning(1) if "model_ema1" in content else None
    return "; ".join(filter(None, [start, trained_on_note(read_spaces(content.get("jitflow", {})))]))


def _record(training: Path) -> RunRecord | None:
    """Read the folder's ``run.json``; a damaged one counts as missing, since the other files still describe the run."""
    try:
        return read_run_record(training)
    except ConfigError:
        return None


def _best_checkpoint(training: Path, settings: Mapping[str, Any]) -> Path | None:
    saving = settings.get("checkpoint")
    if not isinstance(saving, Mapping) or not saving.get("best_name"):
        return None
    path = training / str(saving.get("dirpath", "checkpoints")) / str(saving["best_name"])
    return path if path.is_file() else None


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if training_folder(folder) is not None:
            yield folder
            return
        children = sorted(folder.iterdir()) if depth else []
        folders = [child for child in children if child.is_dir() and not child.name.startswith(".")]
    except (CheckpointError, OSError) as error:
        if depth == _MAX_DEPTH:
            raise
        # A folder that cannot be listed must not hide the runs beside it.
        log.warning("%s is left out: %s", folder, error)
        return
    for child in folders:
        yield from _below(child, depth - 1)


def _checkpoint_folders(training: Path) -> list[CheckpointFolder]:
    folders = (CheckpointFolder(candidate) for candidate in (training, training / "checkpoints"))
    return [candidate for candidate in folders if candidate.checkpoints()]


def _newest_checkpoint(training: Path) -> tuple[Path | None, dict[str, Any], str]:
    """Return the newest readable checkpoint, its content (memory-mapped), and the problem of newer ones."""
    files = [
        (path, candidate.records().get(path.name, []))
        for candidate in _checkpoint_folders(training)
        for path in candidate.checkpoints()
    ]
    places = {path.parent: CheckpointFolder(path.parent) for path, _ in files}
    problem = ""

    def age(item: tuple[Path, list[Record]]) -> tuple[int, int]:
        # A copied folder has lost its file times, but not the steps in its manifest.
        return max((record.step for record in item[1]), default=0), item[0].stat().st_mtime_ns

    for path, records in sorted(files, key=age, reverse=True):
        # Verified by size only: checksums of many large files would take minutes.
        sizes = {record.num_bytes for record in records}
        wrong = (
            f"it has {path.stat().st_size} bytes instead of {max(sizes)}"
            if sizes and path.stat().st_size not in sizes
            else places[path.parent].problem(path, {})
        )
        if wrong is None:
            try:
                return path, load_checkpoint(path), problem
            except CheckpointError as error:
                wrong = str(error)
        problem = problem or f"{path.name}: {wrong}"
    return None, {}, problem


def _state(
    folder: Path,
    training: Path,
    record: RunRecord | None,
    whole: RunRecord | None,
    settings: Mapping[str, Any],
    steps: int,
    epochs: int,
    problem: str,
    checkpoint: Path | None,
) -> tuple[State, str]:
    if checkpoint is None:
        return ("damaged", problem) if problem else ("unfinished", "no checkpoint yet")
    done = f"{epochs} epochs, {steps} steps" + (f" (newer ones are damaged: {problem})" if problem else "")
    trainer = settings.get("trainer") or settings
    max_epochs, max_steps = (_positive(trainer.get(name)) for name in ("max_epochs", "max_steps"))
    max_epochs = max_epochs or _positive(settings.get("epochs"))
    ended = whole or record
    if ended is not None and ended.state == "failed":
        return "unfinished", f"{done}; failed: {ended.detail}"
    reached = bool(max_epochs and epochs >= max_epochs) or bool(max_steps and steps >= max_steps)
    if whole is not None:
        finished = whole.state == "finished"
        if reached and not finished:
            return "unfinished", f"{done}; the training is done, but not what follows it"
    elif record is not None:
        finished = record.state == "finished" or reached
    else:
        # A folder older than run.json.
        recorded_finished = bool(_plain_json(training / "training.json").get("finished"))
        finished = recorded_finished or reached or (folder / "metrics.json").is_file()
    if finished:
        return "finished", done
    goal = f"; goal {max_steps} steps" if max_steps else f"; goal {max_epochs} epochs" if max_epochs else ""
    return "unfinished", done + goal


def _positive(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value > 0 else 0


def best_score(folder: Path, training: Path, application: str) -> tuple[str, float] | None:
    """Find the headline score of a run and its training's folder: of an evaluation, else the curves' lowest loss."""
    scores = get_application(application).headline if application else ()
    for name in _REPORTS:
        report = _plain_json(folder / name) or _plain_json(training / name)
        metrics = inner if isinstance(inner := report.get("metrics"), dict) else {}
        # Applications name the space of a score too: "recovery/text_recovery_accuracy".
        full_names = {name.partition("/")[2] or name: name for name in metrics}
        numbers = {**report, **{score: metrics[name] for score, name in full_names.items()}}
        for score in scores:
            value = numbers.get(score)
            if is_score(value):
                is_own = is_report(report) and is_trained_on(full_names.get(score, score), report)
                return f"{score} ({TRAINED_ON})" if is_own else score, float(value)
    curves = read_curves(training)
    for name in _LOWEST:
        if curves.get(name):
            return f"lowest {name}", min(value for _, value in curves[name])
    return None


def _settings(training: Path) -> dict[str, Any]:
    path = training / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        content = read_yaml(path)
    except ConfigError as error:
        # The other files still describe the run.
        log.warning("%s", error)
        return {}
    return content if isinstance(content, dict) else {}


def _plain_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that describes a run; empty if missing or damaged, since other files describe the run too."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ConfigError:
        return {}
    return content if isinstance(content, dict) else {}


def _application(record: RunRecord | None, content: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the application of a run: from its record, its checkpoint, or the settings of an older record."""
    if record is not None:
        return record.application
    recorded = recorded_application(content)
    if recorded:
        return recorded
    model = settings.get("model")
    if isinstance(model, Mapping):
        return application_name(str(model.get("class_path", "")))
    return next((name for name in BUILT_IN if _is_documented(name, settings)), "")


def _is_documented(application: str, settings: Mapping[str, Any]) -> bool:
    """Whether settings are documented arguments of an application, including one that no other application has."""
    documented = get_application(application).documented
    return (
        documented is not None
        and bool(settings)
        and all(word in documented.words or word in ("tokenizer", "latents") for word in settings)
    )


def _network(settings: Mapping[str, Any]) -> str:
    model = settings.get("model")
    if isinstance(model, Mapping):
        return str((model.get("init_args") or {}).get("model_name", ""))
    return str(model or settings.get("model_name", "") or "")


def _changed(*folders: Path) -> datetime:
    """Return the latest modification time of files in the folders and of checkpoints."""
    places = [candidate for folder in folders for candidate in (folder, folder / "checkpoints") if candidate.is_dir()]
    # A symbolic link may be broken.
    times = [entry.stat(follow_symlinks=False).st_mtime for candidate in places for entry in os.scandir(candidate)]
    return datetime.fromtimestamp(max(times, default=0.0), timezone.utc).replace(microsecond=0)
