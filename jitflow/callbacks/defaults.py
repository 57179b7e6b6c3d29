"""Create the default callbacks of a training."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning.pytorch as pl

from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.callbacks.ema import EMACallback
from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.callbacks.metrics import MetricLoggerCallback
from jitflow.callbacks.schedule import LearningRateSchedulerCallback, shorten_warmup

log = logging.getLogger(__name__)


def create_default_callbacks(
    ema_decay1: float = 0.9999,
    ema_decay2: float = 0.9996,
    save_dir: str | Path = "./checkpoints",
    save_last_freq: int = 5,
    save_milestone_freq: int = 100,
    eval_freq: int = 40,
    num_images: int = 50000,
    eval_batch_size: int = 256,
    num_classes: int = 1000,
    img_size: int = 256,
    lr_schedule: str = "constant",
    warmup_epochs: float = 5,
    min_lr: float = 0.0,
    epochs: float = 600,
    log_freq: int = 100,
    enable_fid_eval: bool | None = None,
) -> list[pl.Callback]:
    """Create callbacks for EMA, checkpoints, learning-rate schedule, metric lines and, if possible, FID evaluation.

    Args:
        ema_decay1: Decay of the first average of the weights, the one that is evaluated.
        ema_decay2: Decay of the second average.
        save_dir: Folder of the checkpoints.
        save_last_freq: Epochs between two saves of the last state.
        save_milestone_freq: Epochs between two milestones.
        eval_freq: Epochs between two evaluations.
        num_images: Images of an evaluation, a multiple of ``num_classes``.
        eval_batch_size: Images generated per batch.
        num_classes: Number of classes.
        img_size: Side of the images in pixels, which determines the statistics file.
        lr_schedule: ``"constant"`` or ``"cosine"``.
        warmup_epochs: Length of the linear warm-up; shortened to half of the training if that is less.
        min_lr: Learning rate at the end of the cosine.
        epochs: Length of the training.
        log_freq: Batches between two metric lines.
        enable_fid_eval: True: evaluate, and fail before training if statistics or extractor weights are
            missing; False: do not evaluate; None: evaluate if they exist, else warn once.

    Returns:
        The callbacks, for ``Trainer(callbacks=...)``.

    Raises:
        ConfigError: If an argument is out of range. Missing files for ``enable_fid_eval=True`` are reported when
            the trainer starts, before the first step.
    """
    callbacks: list[pl.Callback] = [
        EMACallback(ema_decay1, ema_decay2),
        JiTModelCheckpoint(save_dir, save_last_freq, save_milestone_freq),
        LearningRateSchedulerCallback(lr_schedule, shorten_warmup(warmup_epochs, epochs), min_lr, epochs),
        MetricLoggerCallback(log_freq),
    ]
    if enable_fid_eval is None:
        reason = FIDEvaluationCallback.unavailable(img_size)
        enable_fid_eval = reason is None
        if reason is not None:
            log.warning("training without FID evaluation: %s", reason)
    if enable_fid_eval:
        callbacks.append(FIDEvaluationCallback(eval_freq, num_images, eval_batch_size, num_classes, img_size))
    return callbacks
