"""Train a model of text as colour, or go on with a training."""

from __future__ import annotations

import importlib.util
import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from jitflow.apps.text.colour import ColourCodec
from jitflow.apps.text.corpus import builtin_documents
from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.files import DEFAULT_DATA_PATH, TextFiles
from jitflow.apps.text.module import Decoder, TextLightningModule
from jitflow.apps.text.network import build_jit_model
from jitflow.apps.text.tokenizer import Tokenizer, make_tokenizer, tokenizer_from_json
from jitflow.callbacks import (
    DataRecord,
    EMACallback,
    JiTModelCheckpoint,
    LearningRateSchedulerCallback,
    TrainingProgress,
    TrainingWatch,
)
from jitflow.callbacks.checkpoint import LAST_NAME
from jitflow.callbacks.guard import FiniteGuard
from jitflow.callbacks.signals import resumable_exit
from jitflow.checkpoint.find import find_checkpoint
from jitflow.checkpoint.load import check_state_dict
from jitflow.core.times import TimeKind
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.io.files import load_checkpoint, writable_folder
from jitflow.io.progress import Meter, meter
from jitflow.layers.transformer import CompiledParts
from jitflow.run.folder import write_run_folder
from jitflow.run.report import write_final_report
from jitflow.run.strategy import strategy_for

log = logging.getLogger(__name__)

BEST_NAME = "best_model.pth"
MILESTONE_NAME = "checkpoint_epoch_{done}.pth"
DEFAULT_OUTPUT = "./output"
# A corpus of any size can have an epoch of days.
_SAVE_EVERY_STEPS = 2000

# Settings of the network and the loss; they make up a model and cannot change in a resumed training.
_MODEL_DEFAULTS: dict[str, Any] = {
    "model": "JiT-B/4",
    "img_size": 64,
    "mapping": "codebook",
    "predict_clean": True,
    "decoder": None,
    "lr": 1e-4,
    "weight_decay": 0.01,
    "ema_decay": None,
    "velocity_weight": 1.0,
    "cross_entropy_weight": 1.0,
    "self_conditioning": True,
    "infill_prob": 0.75,
    "prompt_prob": 0.25,
    "P_mean": -0.8,
    "P_std": 0.8,
    "time_kind": "logit_normal",
    "noise_scale": 1.0,
    "net_settings": None,
    "pack": True,
    "seed": 0,
}
# Settings of the training's course; a resumed one keeps them unless it is told otherwise.
_COURSE_DEFAULTS: dict[str, Any] = {
    "data_path": None,
    "val_path": None,
    "epochs": 100,
    "max_steps": -1,
    "warmup_epochs": 5.0,
    "batch_size": 32,
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
}


def train(
    data_path: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    model: str | None = None,
    img_size: int | None = None,
    tokenizer: str | None = None,
    mapping: str | None = None,
    predict_clean: bool | None = None,
    decoder: Decoder | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    lr: float | None = None,
    warmup_epochs: float | None = None,
    batch_size: int | None = None,
    gradient_accumulation_steps: int | None = None,
    weight_decay: float | None = None,
    max_grad_norm: float | None = None,
    ema_decay: float | None = None,
    velocity_weight: float | None = None,
    cross_entropy_weight: float | None = None,
    self_conditioning: bool | None = None,
    infill_prob: float | None = None,
    prompt_prob: float | None = None,
    P_mean: float | None = None,
    P_std: float | None = None,
    time_kind: TimeKind | None = None,
    noise_scale: float | None = None,
    net_settings: dict[str, Any] | None = None,
    pack: bool | None = None,
    seed: int | None = None,
    val_path: str | Path | None = None,
    resume: str | Path | None = None,
    save_interval: int = 10,
    val_interval: int = 1,
    log_interval: int = 10,
    devices: int = 1,
    accelerator: str = "auto",
    precision: str | None = None,
    num_workers: int = 0,
    compile: bool | CompiledParts = False,
    gradient_checkpointing: bool = False,
    use_wandb: bool = False,
    wandb_project: str = "jit-diffusion",
    wandb_name: str | None = None,
    wandb_entity: str | None = None,
    callbacks: list[pl.Callback] | None = None,
) -> Path:
    """Train a model of text as colour, or go on with a training.

    Every file that is written is a Lightning checkpoint which also holds ``model_state_dict``,
    ``optimizer_state_dict``, ``scheduler_state_dict``, both averages, and all settings, so that nothing has to be said
    again to resume. Its ``epoch`` is Lightning's: the last finished epoch counted from 0, one less than in the name
    ``checkpoint_epoch_{N}.pth``, whose N epochs are done.

    For the settings that are ``None``, a resumed training keeps its own; a new one takes the default that is named.

    Args:
        data_path: File or folder of .txt, .json or .jsonl. None, or ``./data/train`` where there is no such folder,
            takes the built-in corpus.
        output_dir: Folder of the results, ``./output``; in a resumed training the folder of the checkpoint.
        model: Name of the network, ``JiT-B/4``.
        img_size: Side of the images in pixels, 64.
        tokenizer: ``bytes``, ``bpe``, ``bpe:N`` (learned from the text) or a folder with a ``tokenizer.json``;
            ``bytes``.
        mapping: ``codebook``, ``lattice`` or ``base256``; ``codebook``.
        predict_clean: Predict the image; False predicts the velocity. True.
        decoder: What the network's output means, see :class:`~jitflow.apps.text.module.TextLightningModule`.
        epochs: Length of the training, 100.
        max_steps: Optimiser steps after which to stop whatever the epochs; -1, no limit.
        lr: Peak learning rate, 1e-4, reached along a straight line and lowered along a cosine to 0.
        warmup_epochs: Length of the warm-up, 5, but no more than half of the training.
        batch_size: Images per step and process, 32.
        gradient_accumulation_steps: Steps whose gradients make one update, 1.
        weight_decay: Decay of matrices, 0.01.
        max_grad_norm: Largest norm of the gradient, 1; 0 for no limit.
        ema_decay: Decay of the average that is sampled from; by default 0.9999, in short trainings such that it spans
            a tenth of them.
        velocity_weight: Factor of the velocity's squared error, 1.
        cross_entropy_weight: Factor of the cross-entropy of the tokens, 1; 0 leaves it out.
        self_conditioning: Tell the network its own estimate of the text, True.
        infill_prob: Share of texts that have gaps, which only the clean text around them can tell; 0.75.
        prompt_prob: Share of the others whose beginning is shown clean, as a prompt will be; 0.25.
        P_mean: Mean of the logit of the training times, -0.8.
        P_std: Standard deviation of the logit of the training times, 0.8.
        time_kind: Distribution of the training times, ``logit_normal``.
        noise_scale: Standard deviation of the noise, 1.
        net_settings: Arguments of the network that replace the variant's.
        pack: Put documents one behind the other, so that nearly nothing is padding, True; False begins each in an
            image of its own, as a prompt and its answer need.
        seed: Seed of everything random, 0.
        val_path: Text to validate on; by default a part of ``data_path``, or of the built-in corpus, is held out.
        resume: A checkpoint, a folder of them, or ``auto`` for the newest in ``output_dir``.
        save_interval: Epochs between two checkpoints that stay.
        val_interval: Epochs between two validations.
        log_interval: Steps between two lines of the log files.
        devices: Processes, on as many GPUs or on the CPU.
        accelerator: ``auto``, ``gpu`` or ``cpu``.
        precision: Lightning's precision; by default ``bf16-mixed`` on a GPU and ``32-true`` on a CPU.
        num_workers: Loader processes.
        compile: Compile every block (true), or the whole ``"network"`` as one.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory.
        use_wandb: Log to Weights & Biases as well.
        wandb_project: Its project.
        wandb_name: Name of the run there.
        wandb_entity: Owner of the project.
        callbacks: Further callbacks.

    Returns:
        The checkpoint of the lowest validation loss, taken on the training text where that is too short to hold a part
        of it out; the last one where there was no validation.

    Raises:
        ConfigError: If a setting cannot work, or ``output_dir`` holds a training already.
        DataError: If there is no text.
        CheckpointError: If the checkpoint is another model's, or was trained with other settings than those given.
        MissingFileError: If a path does not exist.
    """
    given: dict[str, Any] = {
        "model": model,
        "img_size": img_size,
        "mapping": mapping,
        "predict_clean": predict_clean,
        "decoder": decoder,
        "lr": lr,
        "weight_decay": weight_decay,
        "ema_decay": ema_decay,
        "velocity_weight": velocity_weight,
        "cross_entropy_weight": cross_entropy_weight,
        "self_conditioning": self_conditioning,
        "infill_prob": infill_prob,
        "prompt_prob": prompt_prob,
        "P_mean": P_mean,
        "P_std": P_std,
        "time_kind": time_kind,
        "noise_scale": noise_scale,
        "net_settings": net_settings,
        "pack": pack,
        "seed": seed,
        "data_path": None if data_path is None else str(data_path),
        "val_path": None if val_path is None else str(val_path),
        "epochs": epochs,
        "max_steps": max_steps,
        "warmup_epochs": warmup_epochs,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "max_grad_norm": max_grad_norm,
    }
    intervals = {"save_interval": save_interval, "val_interval": val_interval, "log_interval": log_interval}
    for name, value in {**intervals, "devices": devices}.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}")
    # Everything that can be wrong is looked at before the run leaves a trace.
    checkpoint, folder = _source(resume, output_dir)
    state = None if checkpoint is None else read_text_checkpoint(checkpoint)
    settings = _settings(given, {} if state is None else state["args"], checkpoint)
    if state is not None and checkpoint is not None:
        _check_length(state, settings, checkpoint)
    logger_names = _wandb_settings(wandb_project, wandb_name, wandb_entity) if use_wandb else None
    text = _text_path(settings["data_path"])
    if settings["val_path"] is not None:
        TextFiles(settings["val_path"])
    if state is None:
        # Sizes that do not fit are found without weights, before the text is read.
        with torch.device("meta"):
            build_jit_model(settings["model"], settings["img_size"], **(settings["net_settings"] or {}))
    words = _tokenizer(tokenizer, text, state, checkpoint)
    num_tokens = ColourCodec(words.vocab_size, settings["mapping"], settings["img_size"]).num_tokens
    accelerator, precision = _machine(accelerator, precision)
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    data = _text_data(text, words, num_tokens, settings, writable_folder(folder) / "tokens", num_workers)
    info = data.get_dataset_info()
    # With less text than one batch, the smaller batch is all there is.
    data.drop_last = info["num_samples"] >= settings["batch_size"] * devices
    batches = _batches(info["num_samples"], settings["batch_size"] * devices, drop_last=data.drop_last)
    steps_per_epoch = -(-batches // settings["gradient_accumulation_steps"])
    limit = settings["max_steps"]
    num_epochs = min(settings["epochs"], limit / steps_per_epoch) if limit > 0 else settings["epochs"]
    if settings["ema_decay"] is None:
        settings["ema_decay"] = _ema_decay(num_epochs * steps_per_epoch)
    module = _module(settings, words, state, compile=compile, gradient_checkpointing=gradient_checkpointing)
    if state is not None and checkpoint is not None:
        check_state_dict(module.state_dict(), state["state_dict"], checkpoint)
    loggers: list[Logger] = [TensorBoardLogger(folder, "", "tensorboard"), CSVLogger(folder, "csv")]
    if logger_names is not None:
        loggers.append(WandbLogger(save_dir=str(folder), **logger_names))
    warmup = min(settings["warmup_epochs"], num_epochs / 2)
    trainer = pl.Trainer(
        max_epochs=settings["epochs"],
        max_steps=settings["max_steps"],
        accelerator=accelerator,
        devices=devices,
        strategy=strategy_for(devices=devices, accumulate=settings["gradient_accumulation_steps"]),
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=settings["gradient_accumulation_steps"],
        gradient_clip_val=settings["max_grad_norm"] or None,
        check_val_every_n_epoch=val_interval,
        callbacks=[
            EMACallback(module.ema_decay1, module.ema_decay2),
            LearningRateSchedulerCallback("cosine", warmup, epochs=num_epochs),
            TrainingProgress(),
            TrainingWatch(),
            DataRecord(folder),
            FiniteGuard(),
            _checkpoints(folder, save_interval),
            _RecordSettings(settings),
            *(callbacks or []),
        ],
        logger=loggers,
        default_root_dir=folder,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=min(log_interval, batches),
    )
    if trainer.is_global_zero:
        write_run_folder(folder, {**settings, "tokenizer": words.name}, seed=settings["seed"])
    log.info(
        "%s (%.2fM parameters), tokenizer %s, %s: %d images of %d tokens, %d steps an epoch, %d epochs, into %s",
        settings["model"],
        sum(p.numel() for p in module.parameters()) / 1e6,
        words.name,
        settings["mapping"],
        info["num_samples"],
        info["num_tokens"],
        steps_per_epoch,
        settings["epochs"],
        folder,
    )
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    with warnings.catch_warnings():
        # Hints on worker counts and small data sets.
        warnings.filterwarnings("ignore", module="lightning")
        with resumable_exit(trainer, f"go on with --resume {shlex.quote(str(folder / LAST_NAME))}"):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    if trainer.is_global_zero:
        write_final_report(folder)
    best = folder / BEST_NAME
    # Without one epoch to its end there was no validation.
    return best if best.exists() else folder / LAST_NAME


def read_text_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of :func:`train` to go on with it.

    Args:
        path: The file.

    Returns:
        Its entries.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, or no training of text that could be gone on with.
    """
    state = load_checkpoint(path)
    if "tokenizer" not in state.get("hyper_parameters", {}):
        raise CheckpointError(f"{path} holds no tokenizer, so it is no model of text as colour")
    if not state.get("optimizer_states") or not isinstance(state.get("args"), Mapping):
        raise CheckpointError(f"{path} holds no optimiser or no settings of a text training, so it cannot be resumed")
    return state


class _RecordSettings(pl.Callback):
    """Keeps the settings of the training in its checkpoints, as ``args``."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["args"] = dict(self.settings)


def _source(resume: str | Path | None, output_dir: str | Path | None) -> tuple[Path | None, Path]:
    """What to resume, if anything, and the folder of the results."""
    folder = Path(output_dir or DEFAULT_OUTPUT).expanduser()
    if resume is not None:
        checkpoint = find_checkpoint(folder if str(resume) == "auto" else resume)
        return checkpoint, checkpoint.parent if output_dir is None else folder
    try:
        there = find_checkpoint(folder)
    except MissingFileError:
        return None, folder
    raise ConfigError(
        f"{folder} holds a training already; go on with it by --resume {shlex.quote(str(there))}, or choose another "
        "--output_dir"
    )


def _settings(given: Mapping[str, Any], recorded: Mapping[str, Any], checkpoint: Path | None) -> dict[str, Any]:
    """What was given, else what the checkpoint records, else the defaults; checked."""
    differing = [
        f"{name} {recorded[name]} (given: {given[name]})"
        for name in _MODEL_DEFAULTS
        if name in recorded and given[name] is not None and given[name] != recorded[name]
    ]
    if differing:
        raise CheckpointError(
            f"{checkpoint} was trained with {', '.join(differing)}; leave these options out, or start a new training"
        )
    defaults = {**_MODEL_DEFAULTS, **_COURSE_DEFAULTS}
    settings = {**defaults, **{name: recorded[name] for name in defaults if name in recorded}}
    settings.update({name: value for name, value in given.items() if value is not None})
    for name in ("epochs", "batch_size", "gradient_accumulation_steps"):
        if settings[name] < 1:
            raise ConfigError(f"{name} must be at least 1; got {settings[name]}")
    for name in ("warmup_epochs", "max_grad_norm"):
        if settings[name] < 0:
            raise ConfigError(f"{name} must not be negative; got {settings[name]}")
    if settings["max_steps"] == 0 or settings["max_steps"] < -1:
        raise ConfigError(f"max_steps must be at least 1, or -1 for no limit; got {settings['max_steps']}")
    return settings


def _wandb_settings(project: str, name: str | None, entity: str | None) -> dict[str, Any]:
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("use_wandb needs the package wandb; pip install wandb, or leave --use_wandb out")
    return {"project": project, "name": name, "entity": entity}


def _text_path(data_path: str | None) -> Path | None:
    """Where the text is; None for the built-in corpus."""
    if data_path is None:
        return None
    path = Path(data_path).expanduser()
    if path == DEFAULT_DATA_PATH and not path.exists():
        log.info("./%s does not exist; the built-in corpus takes its place", DEFAULT_DATA_PATH)
        return None
    # Raises what is wrong with the path or its files' types.
    return TextFiles(path).path


def _tokenizer(spec: str | None, text: Path | None, state: dict[str, Any] | None, checkpoint: Path | None) -> Tokenizer:
    """The tokeniser that was asked for, or the checkpoint's; CheckpointError if they differ."""
    of_checkpoint: Tokenizer | None = None
    if state is not None:
        of_checkpoint = tokenizer_from_json(state["hyper_parameters"]["tokenizer"])
        if spec is None:
            return of_checkpoint
    asked = make_tokenizer(spec or "bytes", builtin_documents("train") if text is None else TextFiles(text).texts())
    if of_checkpoint is not None and asked.fingerprint != of_checkpoint.fingerprint:
        raise CheckpointError(
            f"{checkpoint} was trained with another tokenizer ({of_checkpoint.name}, {of_checkpoint.vocab_size} "
            f"tokens) than {spec} of this text ({asked.vocab_size} tokens); leave --tokenizer out to keep it"
        )
    return asked


def _machine(accelerator: str, precision: str | None) -> tuple[str, str]:
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if precision is None:
        return accelerator, "bf16-mixed" if accelerator == "gpu" else "32-true"
    if accelerator == "cpu" and precision in ("16-mixed", "16-true", "16"):
        log.info("precision %s needs a GPU; on this CPU 32-true is used", precision)
        precision = "32-true"
    return accelerator, precision


def _text_data(
    text: Path | None,
    words: Tokenizer,
    num_tokens: int,
    settings: Mapping[str, Any],
    cache: Path,
    num_workers: int,
) -> TextDataModule:
    """Tokenised text with validation, if need be on the training text itself."""

    def read(val_path: str | Path | None) -> TextDataModule:
        data = TextDataModule(
            text,
            words,
            num_tokens,
            batch_size=settings["batch_size"],
            val_path=val_path,
            cache_dir=cache,
            pack=settings["pack"],
            img_size=settings["img_size"],
            num_workers=num_workers,
        )
        with _tokenising() as data.progress:
            data.prepare_data()
            data.setup("fit")
        return data

    data = read(settings["val_path"])
    if data.get_dataset_info()["num_val_samples"] or text is None:
        return data
    log.info("%s will be the state of the lowest loss on the training text itself", BEST_NAME)
    return read(text)


@contextmanager
def _tokenising() -> Iterator[Any]:
    """Give a progress callback that shows a bar for each text that is read."""
    with ExitStack() as stack:
        shown: list[Meter] = []

        def update(done: int, in_all: int) -> None:
            if not shown or shown[0].total != in_all:
                stack.close()
                shown[:] = [stack.enter_context(meter("tokenising", in_all, unit="bytes"))]
            shown[0].update(done)

        yield update


def _batches(num_samples: int, global_batch: int, *, drop_last: bool) -> int:
    return num_samples // global_batch if drop_last else -(-num_samples // global_batch)


def _ema_decay(num_steps: float) -> float:
    return min(0.9999, 1 - 10 / max(num_steps, 20))


def _module(
    settings: Mapping[str, Any],
    words: Tokenizer,
    state: dict[str, Any] | None,
    *,
    compile: bool | CompiledParts,
    gradient_checkpointing: bool,
) -> TextLightningModule:
    if state is not None:
        how = {"compile": compile, "gradient_checkpointing": gradient_checkpointing}
        return TextLightningModule(**{**state["hyper_parameters"], **how})
    decay = settings["ema_decay"]
    return TextLightningModule(
        words.to_json(),
        settings["model"],
        settings["img_size"],
        mapping=settings["mapping"],
        predict_clean=settings["predict_clean"],
        decoder=settings["decoder"],
        learning_rate=settings["lr"],
        weight_decay=settings["weight_decay"],
        ema_decay1=decay,
        ema_decay2=max(0.0, 1 - (1 - decay) * 4),
        velocity_weight=settings["velocity_weight"],
        cross_entropy_weight=settings["cross_entropy_weight"],
        self_conditioning=settings["self_conditioning"],
        infill_prob=settings["infill_prob"],
        prompt_prob=settings["prompt_prob"],
        P_mean=settings["P_mean"],
        P_std=settings["P_std"],
        time_kind=settings["time_kind"],
        noise_scale=settings["noise_scale"],
        net_settings=settings["net_settings"],
        gradient_checkpointing=gradient_checkpointing,
        compile=compile,
    )


def _check_length(state: dict[str, Any], settings: Mapping[str, Any], checkpoint: Path) -> None:
    """Raise ConfigError if there is nothing left to train."""
    done = int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    steps, limit = int(state["global_step"]), settings["max_steps"]
    if done >= settings["epochs"]:
        raise ConfigError(
            f"{checkpoint} has {done} of {settings['epochs']} epochs done, so nothing is left to train; "
            f"give --epochs above {done} to train longer"
        )
    if 0 < limit <= steps:
        raise ConfigError(
            f"{checkpoint} has {steps} of {limit} steps done, so nothing is left to train; "
            f"give --max_steps above {steps} to train longer"
        )


def _checkpoints(folder: Path, save_interval: int) -> JiTModelCheckpoint:
    return JiTModelCheckpoint(
        folder,
        save_last_freq=save_interval,
        save_milestone_freq=save_interval,
        save_last_every_n_steps=_SAVE_EVERY_STEPS,
        best_name=BEST_NAME,
        milestone_name=MILESTONE_NAME,
    )
