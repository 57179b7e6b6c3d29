"""Stage 2 of micro-Doppler: train a user-conditioned LightningDiT on latents."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from jitflow.apps.microdoppler.data import LatentDataModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.stages import BEST_NAME
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
from jitflow.checkpoint.find import resume_point
from jitflow.core.path import Prediction
from jitflow.errors import ConfigError
from jitflow.io.files import read_json, writable_folder, write_json
from jitflow.layers.transformer import CompiledParts
from jitflow.nets.registry import create_model
from jitflow.run.folder import write_run_folder
from jitflow.run.report import write_final_report
from jitflow.run.strategy import strategy_for

log = logging.getLogger(__name__)

RECORD_NAME = "training.json"
# Weights, gradients, two moments of AdamW and two averages, float32 each.
_BYTES_PER_PARAMETER = 6 * 4
# What may change between two parts of a training; everything else would make it another one.
_LENGTH = ("max_epochs", "max_steps")


def train(
    latent_dir: str | Path,
    output_dir: str | Path,
    *,
    batch_size: int = 32,
    max_epochs: int = 100,
    lr: float = 1e-4,
    devices: int = 1,
    precision: str = "16-mixed",
    seed: int = 42,
    model: str = "LightningDiT-XL/1",
    net_settings: dict[str, Any] | None = None,
    max_steps: int = -1,
    warmup_epochs: float = 1.0,
    ema_decay: float = 0.999,
    cosine_weight: float = 1.0,
    label_drop_prob: float = 0.1,
    prediction: Prediction = "velocity",
    noise_scale: float = 1.0,
    P_mean: float = 0.0,
    P_std: float = 1.0,
    gradient_clip: float = 1.0,
    gradient_checkpointing: bool = False,
    compile: bool | CompiledParts = False,
    accelerator: str = "auto",
    num_workers: int = 0,
    check_val_every_n_epoch: int = 1,
    sampling: dict[str, Any] | None = None,
    callbacks: list[pl.Callback] | None = None,
) -> Path:
    """Train, or go on with a training that was cut off; a finished one is left as it is.

    Args:
        latent_dir: Folder of ``train.safetensors`` and ``val.safetensors``.
        output_dir: Folder for ``checkpoints/`` (``best.ckpt`` of the lowest validation loss, the last state) and
            ``lightning_logs/``.
        batch_size: Latents per step and process.
        max_epochs: Length of the training.
        lr: Peak learning rate, warmed up and then lowered along a cosine to a tenth.
        devices: Processes, on as many GPUs or on the CPU.
        precision: Lightning's precision; on a CPU half precision becomes ``32-true``, which is said.
        seed: Seed of everything random.
        model: Name of the network.
        net_settings: Arguments of the network that replace the variant's.
        max_steps: Optimiser steps after which to stop whatever the epochs; -1 for no limit.
        warmup_epochs: Length of the linear warm-up.
        ema_decay: Decay of the average that is sampled from.
        cosine_weight: Factor of the loss of the velocity's direction.
        label_drop_prob: Share of labels replaced by "no user", which guidance needs.
        prediction: What the network predicts.
        noise_scale: Standard deviation of the noise.
        P_mean: Mean of the logit of the training times.
        P_std: Standard deviation of the logit of the training times.
        gradient_clip: Largest norm of the gradient; 0 for no limit.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory.
        compile: Compile every block (true), or the whole ``"network"`` as one.
        accelerator: ``auto``, ``gpu`` or ``cpu``.
        num_workers: Loader processes.
        check_val_every_n_epoch: Epochs between two validations.
        sampling: Sampling settings kept as the model's own, such as ``{"cfg_scale": 2.0}``.
        callbacks: Further callbacks.

    Returns:
        The best checkpoint.

    Raises:
        ConfigError: If a setting cannot work, or the folder holds a training with other settings.
        DataError: If the latents cannot be used.
    """
    for name, value in (("batch_size", batch_size), ("max_epochs", max_epochs), ("devices", devices)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}")
    if max_steps == 0 or max_steps < -1:
        raise ConfigError(f"max_steps must be at least 1, or -1 for no limit; got {max_steps}")
    if not label_drop_prob > 0 and (sampling or {}).get("cfg_scale", 4.0) != 1:
        raise ConfigError(
            "guidance needs a network that also saw no user: set label_drop_prob above 0, or the guidance to 1"
        )
    data = LatentDataModule(str(latent_dir), batch_size=batch_size, num_workers=num_workers)
    data.setup("fit")
    info = data.get_dataset_info()
    if info["num_val_samples"] == 0:
        raise ConfigError(f"{latent_dir} has no validation latents, so there would be no best checkpoint")
    output_dir = Path(output_dir)
    settings: dict[str, Any] = {
        "latents": info["fingerprint"],
        "batch_size": batch_size,
        "max_epochs": max_epochs,
        "max_steps": max_steps,
        "lr": lr,
        "devices": devices,
        "seed": seed,
        "model": model,
        "net_settings": net_settings or {},
        "warmup_epochs": warmup_epochs,
        "ema_decay": ema_decay,
        "cosine_weight": cosine_weight,
        "label_drop_prob": label_drop_prob,
        "prediction": prediction,
        "noise_scale": noise_scale,
        "P_mean": P_mean,
        "P_std": P_std,
        "gradient_clip": gradient_clip,
    }
    last, best = (output_dir / "checkpoints" / name for name in (LAST_NAME, BEST_NAME))
    if _is_finished(output_dir, settings, last):
        log.info("%s is trained already; longer: raise --max_epochs; anew: choose another --output_dir", output_dir)
        return best
    accelerator, precision = _machine(accelerator, precision)
    _state_memory(model, info, net_settings)
    pl.seed_everything(seed, workers=True, verbose=False)
    module = UserConditionedDiT(
        num_users=info["num_classes"],
        model_name=model,
        latent_shape=tuple(info["latent_shape"]),
        learning_rate=lr,
        ema_decay1=ema_decay,
        ema_decay2=1 - (1 - ema_decay) * 4,
        cosine_weight=cosine_weight,
        label_drop_prob=label_drop_prob,
        prediction=prediction,
        noise_scale=noise_scale,
        P_mean=P_mean,
        P_std=P_std,
        net_settings=net_settings,
        gradient_checkpointing=gradient_checkpointing,
        compile=compile,
        **(sampling or {}),
    )
    steps_per_epoch = max(1, info["num_samples"] // (batch_size * devices))
    epochs = min(max_epochs, max_steps / steps_per_epoch) if max_steps > 0 else max_epochs
    loggers: list[Logger] = [TensorBoardLogger(output_dir), CSVLogger(output_dir, "lightning_logs")]
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        max_steps=max_steps,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy_for(devices=devices),
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=gradient_clip or None,
        check_val_every_n_epoch=check_val_every_n_epoch,
        callbacks=[
            EMACallback(module.ema_decay1, module.ema_decay2),
            LearningRateSchedulerCallback("cosine", min(warmup_epochs, epochs / 2), min_lr=lr / 10, epochs=epochs),
            TrainingProgress(),
            TrainingWatch(),
            DataRecord(output_dir),
            FiniteGuard(),
            # The last state now and then, the best whenever it is found; a short training loses little.
            JiTModelCheckpoint(output_dir / "checkpoints", max(1, max_epochs // 40), 10**9, best_name=BEST_NAME),
            *(callbacks or []),
        ],
        logger=loggers,
        default_root_dir=output_dir,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, steps_per_epoch),
    )
    if trainer.is_global_zero:
        write_run_folder(writable_folder(output_dir), settings, seed=seed)
        write_json(output_dir / RECORD_NAME, {"settings": settings, "finished": False})
    log.info(
        "training %s (%.2fM parameters) on %d latents of %d users, %d steps an epoch",
        model,
        sum(p.numel() for p in module.parameters()) / 1e6,
        info["num_samples"],
        info["num_classes"],
        steps_per_epoch,
    )
    resume = resume_point(output_dir)
    if resume is not None:
        log.info("resuming from %s", resume)
    with warnings.catch_warnings():
        # Hints on worker counts and small data sets.
        warnings.filterwarnings("ignore", module="lightning")
        with resumable_exit(trainer, "the same command goes on"):
            trainer.fit(module, datamodule=data, ckpt_path=resume)
    if trainer.is_global_zero:
        write_json(output_dir / RECORD_NAME, {"settings": settings, "finished": True, "steps": trainer.global_step})
        write_final_report(output_dir)
    if not best.exists():
        raise ConfigError(f"no validation was run in {max_epochs} epochs; lower check_val_every_n_epoch")
    return best


def _is_finished(output_dir: Path, settings: dict[str, Any], last: Path) -> bool:
    """Whether this very training is done; ConfigError if the folder holds another."""
    path = output_dir / RECORD_NAME
    if not path.exists():
        if last.exists():
            raise ConfigError(f"{output_dir} holds a training of another kind; choose another --output_dir")
        return False
    record: dict[str, Any] = read_json(path)
    before = record.get("settings", {})
    changed = [name for name, value in settings.items() if name not in _LENGTH and before.get(name) != value]
    if changed:
        was, now = ({name: side.get(name) for name in changed} for side in (before, settings))
        raise ConfigError(
            f"{output_dir} holds a training with other settings (then {was}, now {now}); choose another --output_dir"
        )
    same_length = all(before.get(name) == settings[name] for name in _LENGTH)
    return bool(record.get("finished")) and same_length and last.exists()


def _machine(accelerator: str, precision: str) -> tuple[str, str]:
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu" and precision not in ("32-true", "32", "64-true", "bf16-mixed"):
        log.info("precision %s needs a GPU; on this CPU 32-true is used", precision)
        precision = "32-true"
    return accelerator, precision


def _state_memory(model: str, info: dict[str, Any], net_settings: dict[str, Any] | None) -> None:
    """Say how much memory a network needs before any is taken; ConfigError if this machine has not got it."""
    channels, height, width = info["latent_shape"]
    with torch.device("meta"):
        net = create_model(
            model,
            input_size=(height, width),
            in_channels=channels,
            num_classes=info["num_classes"],
            **(net_settings or {}),
        )
    parameters = sum(p.numel() for p in net.parameters())
    needed = parameters * _BYTES_PER_PARAMETER
    log.info(
        "%s: %.1fM parameters, %.1f GB for weights, gradients, optimiser and averages, besides activations",
        model,
        parameters / 1e6,
        needed / 1e9,
    )
    available = _memory_bytes()
    if available is not None and needed > available:
        raise ConfigError(
            f"{model} needs at least {needed / 1e9:.1f} GB and this machine has {available / 1e9:.1f} GB; "
            "choose a smaller one, such as --model LightningDiT-B/1 (`jitflow models 'LightningDiT*'`)"
        )


def _memory_bytes() -> int | None:
    """Memory of the device that trains: the GPU's, else the machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    return None
