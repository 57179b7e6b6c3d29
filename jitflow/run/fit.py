"""Train a recipe: the only module that builds a Trainer, its callbacks and a run's folder."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from jitflow.callbacks import (
    EMACallback,
    EMASnapshotCallback,
    FiniteGuard,
    JiTModelCheckpoint,
    TrainingProgress,
    TrainingWatch,
)
from jitflow.callbacks.signals import resumable_exit
from jitflow.callbacks.training_pictures import FOLDER_NAME, TrainingPictures
from jitflow.checkpoint.convert import resumable
from jitflow.checkpoint.find import find_checkpoint
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.load import check_init, init_from
from jitflow.data.base import ImageDataModule
from jitflow.errors import ConfigError, DataError
from jitflow.host import allow_tf32
from jitflow.io.files import user_path, writable_folder
from jitflow.io.folder_lock import FolderLock, locked
from jitflow.run.course import Course, ema_decays, plan_course, schedule_of
from jitflow.run.data_record import describe_data
from jitflow.run.describe import Run, describe_run
from jitflow.run.folder import RunRecord, read_run_record
from jitflow.run.forecast import log_forecast
from jitflow.run.loggers import RunCSVLogger, RunTensorBoardLogger, log_threads_without_tracebacks
from jitflow.run.model import build_model, check_model, check_same_model, kept_settings
from jitflow.run.recipe import build, build_nested, override
from jitflow.run.recorder import RunRecorder
from jitflow.run.report import write_final_report
from jitflow.run.settings import LOGGING, complete, describe_changes
from jitflow.run.start import AUTO, CONVERTED, Start, find_start, nothing_left_of_a_refused_run, run_set_aside
from jitflow.run.strategy import is_first_process, precision_arguments, strategy_for
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
_RUN_DIR = "{run_dir}"


@dataclass(frozen=True)
class Training:
    """A training that is ready to start: model, data and trainer are built and checked.

    Attributes:
        recipe: Complete settings.
        run_dir: Folder of the run.
        start: Checkpoint to start from, if any.
        module: The model.
        data: The data.
        info: Description of the data (``get_dataset_info``).
        course: Length of the training.
        trainer: Lightning's trainer.
    """

    recipe: dict[str, Any]
    run_dir: Path
    start: Start
    module: FlowModule
    data: pl.LightningDataModule
    info: dict[str, Any]
    course: Course
    trainer: pl.Trainer


def fit(
    recipe: Mapping[str, Any],
    run_dir: str | Path,
    resume: str | Path = AUTO,
    callbacks: Sequence[pl.Callback] = (),
    *,
    restart: bool = False,
    allow_import: Collection[str] = (),
    command: str | None = None,
) -> Run:
    """Train a recipe, or resume an interrupted training; a finished one is left unchanged.

    Args:
        recipe: Sections by name, see ``jitflow/apps/README.md``; missing settings have their defaults.
        run_dir: Folder of the run, created if missing: checkpoints, logs, ``run.json``, ``report.html``.
        resume: ``"auto"`` resumes the folder's own run. A path of a checkpoint or a folder resumes from there, also
            with another length, other data or other logs, which are logged; never with another model or optimiser.
        callbacks: Further callbacks; they replace default callbacks of the same class.
        restart: Start from scratch; the earlier training in the folder is deleted once this one has passed all checks.
        allow_import: Packages of further classes in the recipe; importing them runs their code.
        command: Command that resumes the run, for its record; ``jitflow train --resume`` by default.

    Returns:
        The run, as its folder describes it.

    Raises:
        ConfigError: If a setting is invalid, the folder holds another run, or another process is using it.
        DataError: If the data cannot be used, or differ from those of the run.
        CheckpointError: If a checkpoint is damaged or of another model.
        MissingFileError: If a path does not exist.
    """
    run_dir = user_path(run_dir)
    # One process of a distributed training holds the lock for all of them.
    lock = locked(run_dir) if is_first_process() else nullcontext()
    with nothing_left_of_a_refused_run(run_dir), lock as held:
        training = prepare(recipe, run_dir, resume, callbacks, restart=restart, allow_import=allow_import)
        if training is not None:
            allowed = ["--allow_import", *sorted(allow_import)] if allow_import else []
            resume_command = command or shlex.join(["jitflow", "train", "--resume", str(run_dir), *allowed])
            _train(training, resume_command, held, restart=restart and is_first_process())
    return describe_run(run_dir)


def _train(training: Training, command: str, lock: FolderLock | None, *, restart: bool) -> None:
    run_dir, trainer, start = training.run_dir, training.trainer, training.start
    writable_folder(run_dir)
    record = RunRecord(
        training.module.application,
        training.recipe,
        "running",
        data=_describe_data(training.data, training.info),
        command=command,
    )
    recorder = RunRecorder(run_dir, record, lock)
    # Last, because the other callbacks may still refuse to start.
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    log.info("%s in %s: %s", describe_model(training.module), run_dir, describe_length(training))
    log_forecast(training.module, training.data, trainer, training.course)
    if start.checkpoint is not None:
        log.info("resuming from %s", start.checkpoint)
    old_run = run_set_aside(run_dir, lambda: recorder.has_started) if restart else nullcontext()
    with old_run, warnings.catch_warnings(), log_threads_without_tracebacks(), recorder.end_recorded(trainer):
        # Hints on worker counts and small data sets.
        warnings.filterwarnings("ignore", module="lightning")
        with resumable_exit(trainer, "the same command resumes it"):
            trainer.fit(training.module, datamodule=training.data, ckpt_path=start.checkpoint)
    if trainer.is_global_zero:
        shutil.rmtree(run_dir / CONVERTED, ignore_errors=True)
        write_final_report(run_dir)


def prepare(
    recipe: Mapping[str, Any],
    run_dir: Path,
    resume: str | Path = AUTO,
    callbacks: Sequence[pl.Callback] = (),
    *,
    restart: bool = False,
    allow_import: Collection[str] = (),
) -> Training | None:
    """Build a training and check its settings, data, model and checkpoint.

    Only the data cache (``run_dir/cache``) is written; see :func:`jitflow.run.start.nothing_left_of_a_refused_run`.

    Args:
        recipe: As in :func:`fit`, as are all further arguments.
        run_dir: See there.
        resume: See there.
        callbacks: See there.
        restart: Start from scratch whatever the folder holds; it is not emptied here.
        allow_import: See there.

    Returns:
        The training; None if the folder's run is finished.
    """
    recipe = complete(recipe, allow_import=allow_import)
    if restart and str(resume) != AUTO:
        raise ConfigError("resume continues a run, restart starts a new one; give one of them")
    start = Start() if restart else find_start(recipe, run_dir, resume)
    kept = {} if start.checkpoint is None else kept_settings(start.checkpoint)
    check_same_model(recipe, kept, allow_import=allow_import)
    if start.changed:
        log.info("resuming with other settings: %s", describe_changes(start.changed, most=20))
    for name, value in start.kept.items():
        log.info("%s stays %s: a resumed run keeps its seed", name, value)
    # The record shall hold the values that have an effect.
    recipe = override(recipe, start.kept)
    if start.is_finished:
        log.info(
            "%s is finished: %s has reached the requested epochs or steps; request more to train longer, or "
            "--restart to start from scratch",
            run_dir,
            start.checkpoint,
        )
        return None
    return _prepare(recipe, run_dir, start, kept, callbacks, allow_import=allow_import)


def _prepare(
    recipe: dict[str, Any],
    run_dir: Path,
    start: Start,
    kept: Mapping[str, Any],
    callbacks: Sequence[pl.Callback],
    *,
    allow_import: Collection[str],
) -> Training:
    _seed(recipe["seed_everything"])
    check_model(recipe, kept, allow_import=allow_import)
    data, info = _open_data(recipe, run_dir, allow_import=allow_import)
    _check_same_data(run_dir, start, data, info)
    saving = recipe["checkpoint"]
    if saving["best_name"] and saving["monitor"].startswith("val/") and info.get("num_val_samples") == 0:
        raise ConfigError("checkpoint.best_name needs validation data, and there are none; add some or set it to null")
    course = plan_course(
        recipe,
        info.get("num_samples"),
        batch_size=getattr(data, "batch_size", 1),
        drop_last=bool(getattr(data, "drops_last", getattr(data, "drop_last", False))),
    )
    if isinstance(data, ImageDataModule):
        data.check_training_data(course.num_processes)
    chosen = {**ema_decays(recipe["model"]["init_args"], course), **kept}
    # Everything is checked on a model without weights first: a large one takes minutes to build.
    make_model = partial(build_model, recipe, info, chosen, allow_import=allow_import)
    with torch.device("meta"):
        sketch = make_model()
    sketch.check_data(info)
    weights = None
    if start.checkpoint is not None:
        # Checked before any file of the run is overwritten.
        sketch.load_extra_state(dict(read_state(start.checkpoint).extra))
        sketch.check_data(info)
        start = replace(start, checkpoint=resumable(start.checkpoint, sketch, run_dir / CONVERTED))
    elif recipe["init_from"] is not None:
        weights = find_checkpoint(recipe["init_from"])
        check_init(sketch, weights, ema=recipe["init_ema"])
    trainer = _build_trainer(recipe, run_dir, sketch, course, callbacks, allow_import=allow_import)
    _seed(recipe["seed_everything"])
    module = make_model()
    module.optimizer_on_cpu = recipe["optimizer_on_cpu"]
    if weights is not None:
        init_from(module, weights, ema=recipe["init_ema"])
    return Training(recipe, run_dir, start, module, data, info, course, trainer)


def _seed(seed: int) -> None:
    try:
        pl.seed_everything(seed, workers=True, verbose=False)
    except ValueError as error:
        raise ConfigError(f"seed_everything: {error}") from None


def _open_data(
    recipe: Mapping[str, Any], run_dir: Path, *, allow_import: Collection[str]
) -> tuple[pl.LightningDataModule, dict[str, Any]]:
    """Build and set up the data module."""
    arguments = {name: in_run_folder(value, run_dir) for name, value in recipe["data"]["init_args"].items()}
    if "cache_dir" in arguments and arguments["cache_dir"] is None:
        arguments["cache_dir"] = str(run_dir / "cache")
    data: pl.LightningDataModule = build({**recipe["data"], "init_args": arguments}, allow_import)
    data.prepare_data()
    data.setup("fit")
    info: dict[str, Any] = getattr(data, "get_dataset_info", dict)()
    return data, info


def in_run_folder(value: Any, run_dir: Path) -> Any:
    """Replace a leading ``{run_dir}`` of a recipe's setting, such as ``{run_dir}/../latents``.

    A recipe can so name data beside its run, and stays valid when both are moved.
    """
    if not isinstance(value, str) or not value.startswith(_RUN_DIR):
        return value
    # Resolve the dots, since the run's folder need not exist yet.
    return os.path.normpath(f"{run_dir}{value.removeprefix(_RUN_DIR)}")


def _check_same_data(run_dir: Path, start: Start, data: Any, info: Mapping[str, Any]) -> None:
    """Raise DataError if the folder's own run was trained on data with another fingerprint."""
    record = read_run_record(run_dir) if start.is_same_run else None
    recorded = record.data.get("fingerprint") if record is not None else None
    if recorded is None:
        return
    now = _describe_data(data, info)["fingerprint"]
    if now != recorded:
        raise DataError(
            f"{run_dir} was trained on other data (fingerprint {recorded[:12]}, now {now[:12]}); restore them, "
            f"--resume {run_dir} to continue with these anyway, or choose another folder"
        )


def _describe_data(data: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    return describe_data(info, getattr(getattr(data, "dataset_train", None), "samples", ()))


def _build_trainer(
    recipe: Mapping[str, Any],
    run_dir: Path,
    module: FlowModule,
    course: Course,
    further: Sequence[pl.Callback],
    *,
    allow_import: Collection[str],
) -> pl.Trainer:
    arguments = {name: build_nested(value, allow_import) for name, value in recipe["trainer"].items()}
    chosen = arguments.pop("callbacks") or []
    chosen = [*(chosen if isinstance(chosen, list) else [chosen]), *further]
    # A user's callback replaces the default one of the same class.
    ours = [c for c in _callbacks(recipe, run_dir, module, course) if not any(isinstance(o, type(c)) for o in chosen)]
    logger = arguments.pop("logger")
    devices = {name: arguments[name] for name in ("devices", "accelerator", "num_nodes")}
    arguments["strategy"] = strategy_for(
        arguments["strategy"], **devices, accumulate=arguments["accumulate_grad_batches"]
    )
    # Before Lightning looks, which would recommend it.
    allow_tf32()
    arguments |= precision_arguments(arguments["precision"], arguments["accelerator"], arguments["plugins"])
    arguments["log_every_n_steps"] = max(1, min(arguments["log_every_n_steps"] or 50, course.batches_per_epoch))
    # Lightning's validation sanity check is redundant: everything was checked already.
    arguments["num_sanity_val_steps"] = arguments["num_sanity_val_steps"] or 0
    arguments["gradient_clip_val"] = arguments["gradient_clip_val"] or None
    # The log line of `describe_model` replaces Lightning's summary.
    arguments["enable_model_summary"] = arguments["enable_model_summary"] or False
    arguments["default_root_dir"] = arguments["default_root_dir"] or str(run_dir)
    logger = _loggers(recipe["logging"], run_dir) if logger is None or logger is True else logger
    try:
        return pl.Trainer(**arguments, callbacks=[*chosen, *ours], logger=logger)
    except (MisconfigurationException, TypeError, ValueError) as error:
        # Lightning's message names its arguments.
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from None


def _callbacks(recipe: Mapping[str, Any], run_dir: Path, module: FlowModule, course: Course) -> list[pl.Callback]:
    """Return the default callbacks of every training, in calling order."""
    saving = dict(recipe["checkpoint"])
    callbacks: list[pl.Callback] = [
        EMACallback(module.ema_decay1, module.ema_decay2, on_cpu=recipe["ema_on_cpu"]),
        schedule_of(recipe, course),
        *([TrainingProgress()] if recipe["trainer"]["enable_progress_bar"] is not False else []),
        TrainingWatch(),
        FiniteGuard(**recipe["guard"]),
        TrainingPictures(run_dir / FOLDER_NAME, **recipe["pictures"]),
        JiTModelCheckpoint(run_dir / saving.pop("dirpath"), **saving),
    ]
    every = recipe["ema_snapshots_every_n_steps"]
    if every is not None:
        callbacks.append(EMASnapshotCallback(run_dir / "ema_snapshots", every_n_steps=every))
    return callbacks


def _loggers(logging_settings: Mapping[str, Any], run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = []
    if logging_settings["tensorboard"]:
        loggers.append(RunTensorBoardLogger(run_dir, "", logging_settings["tensorboard"]))
    if logging_settings["csv"]:
        # A new folder for each part of a run: this logger empties its folder.
        loggers.append(RunCSVLogger(run_dir, logging_settings["csv"]))
    if logging_settings["wandb"] is not None:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(save_dir=str(run_dir), **logging_settings["wandb"]))
    assert set(logging_settings) == set(LOGGING)
    return loggers


def describe_model(module: FlowModule) -> str:
    """Describe a model and its number of parameters, such as ``JiT-B/16, 131.45M parameters``."""
    parameters = sum(p.numel() for p in module.parameters())
    return f"{getattr(module, 'model_name', type(module).__name__)}, {parameters / 1e6:.2f}M parameters"


def describe_length(training: Training) -> str:
    """Describe the length of a training, such as ``1,437 samples, 22 steps an epoch, 50 epochs``."""
    course = training.course
    samples = training.info.get("num_samples")
    known = f"{samples:,} samples, {course.steps_per_epoch:,} steps an epoch, " if samples is not None else ""
    return f"{known}{course.num_epochs:.4g} epochs"
