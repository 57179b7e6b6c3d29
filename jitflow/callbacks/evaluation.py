"""FID and Inception Score during training, on all of its processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from jitflow.callbacks.samples import as_flow_module, draw_samples, is_last_epoch, undisturbed
from jitflow.codec.pixel import PixelCodec
from jitflow.errors import ConfigError, DataError, JitflowError
from jitflow.evaluation.features import FeatureExtractor, InceptionExtractor, find_inception_weights
from jitflow.evaluation.frechet import (
    Statistics,
    check_statistics,
    factor_covariance,
    find_statistics,
    frechet_distance,
    load_statistics,
)
from jitflow.evaluation.inception_score import inception_score
from jitflow.evaluation.moments import Moments
from jitflow.host import full_float32
from jitflow.io.progress import LINE_EVERY_SEC
from jitflow.io.units import format_seconds
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)

# Number of splits in torch-fidelity and in published Inception Scores.
_SPLITS = 10

Reference = str | Path | tuple[Tensor | ArrayLike, Tensor | ArrayLike]
"""An ``.npz`` file, or mean ``(D,)`` and covariance ``(D, D)``."""


class FIDEvaluationCallback(pl.Callback):
    """Generate images every ``eval_freq`` epochs and compare their features with those of real images.

    Image i has class ``i % num_classes`` and seed ``seed + i``, so batch size and number of processes do not change the
    score. No image is saved. The metrics that :meth:`_evaluate` returns are logged and stored in :attr:`metrics`;
    subclasses may override it and add more.

    Args:
        eval_freq: Epochs between two evaluations; one more follows the last epoch.
        num_images: Images to generate, a multiple of ``num_classes``; published scores use 50,000.
        batch_size: Images per batch and process.
        num_classes: Number of classes to draw, from class 0.
        img_size: Side of the images in pixels, which determines the reference statistics.
        use_ema: Use the first average of the weights.
        extractor: Feature extractor; None takes Inception.
        reference: Statistics of real images under the same extractor: a file, or mean ``(D,)`` and covariance
            ``(D, D)``; None takes ``jit_in{img_size}_stats.npz`` in ``folder``.
        seed: Seed of the first image; the others follow it.
        folder: Folder of the release's statistics.

    Attributes:
        metrics: Metrics of the last evaluation, empty before the first.

    Raises:
        ConfigError: If a number is below 1, or ``num_images`` not a multiple of ``num_classes``.
    """

    def __init__(
        self,
        eval_freq: int = 40,
        num_images: int = 50000,
        batch_size: int = 256,
        num_classes: int = 1000,
        img_size: int = 256,
        use_ema: bool = True,
        *,
        extractor: FeatureExtractor | None = None,
        reference: Reference | None = None,
        seed: int = 0,
        folder: str | Path = "fid_stats",
    ) -> None:
        counts = {
            "eval_freq": eval_freq,
            "num_images": num_images,
            "batch_size": batch_size,
            "num_classes": num_classes,
            "img_size": img_size,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        if num_images % num_classes:
            nearest = max(1, round(num_images / num_classes)) * num_classes
            raise ConfigError(
                f"num_images ({num_images}) must be a multiple of num_classes ({num_classes}), so that the classes "
                f"are balanced; the nearest is {nearest}"
            )
        if num_images < 2:
            raise ConfigError("num_images must be at least 2, or there is no covariance")
        self.eval_freq = eval_freq
        self.num_images = num_images
        self.batch_size = batch_size
        self.num_classes = num_classes
        self.img_size = img_size
        self.use_ema = use_ema
        self.extractor = extractor
        self.reference = reference
        self.seed = seed
        self.folder = folder
        self.metrics: dict[str, float] = {}
        self._statistics: Statistics | None = None
        self._epochs_done = 0
        self._evaluated_at = 0

    @staticmethod
    def unavailable(
        img_size: int = 256,
        num_classes: int = 1000,
        folder: str | Path = "fid_stats",
        weights_path: str | Path | None = None,
    ) -> str | None:
        """Return the reason why an evaluation with Inception cannot run here, without loading anything.

        Args:
            img_size: Side of the images in pixels.
            num_classes: Number of classes.
            folder: Folder of the reference statistics.
            weights_path: The Inception weights; None looks where torch-fidelity keeps them.

        Returns:
            The reason and what to do; None if nothing is missing.
        """
        try:
            find_inception_weights(weights_path)
            find_statistics(img_size, num_classes, folder)
        except JitflowError as error:
            return str(error)
        return None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check statistics, extractor and model before training, long before the first evaluation.

        Raises:
            ConfigError: If the model has fewer classes or another image size, or cannot be guided as it is set, or the
                statistics are unusable or of another dimension than the features.
            MissingFileError: If statistics or weights are missing.
        """
        if stage != "fit":
            return
        self._epochs_done = self._evaluated_at = 0
        module = as_flow_module(pl_module, self)
        module.check_guidance()
        if self.num_classes > module.num_classes:
            raise ConfigError(
                f"FIDEvaluationCallback: num_classes is {self.num_classes}, but the model has {module.num_classes}"
            )
        if self.reference is None and isinstance(module.codec, PixelCodec):
            size = module.codec.shape[1:]
            if size != (self.img_size, self.img_size):
                raise ConfigError(
                    f"FIDEvaluationCallback: img_size is {self.img_size}, but the model makes {size[1]} x {size[0]} "
                    "px; set img_size, or pass the statistics as reference"
                )
        self._statistics = self._load_reference()
        if self.extractor is None:
            self.extractor = InceptionExtractor()
        if self.extractor.dim != len(self._statistics.mu):
            raise ConfigError(
                f"the reference statistics have {len(self._statistics.mu)} dimensions, but {self.extractor.name} makes "
                f"{self.extractor.dim}; they come from another feature extractor"
            )
        # Fails if the matrix is not a covariance: seconds now instead of an error after days.
        factor_covariance(self._statistics.sigma, what="the reference covariance")
        if self.num_images <= self.extractor.dim:
            pl.utilities.rank_zero_warn(
                f"num_images ({self.num_images}) is not above the feature dimension ({self.extractor.dim}), so the "
                f"covariance is singular and FID too high; use at least {self.extractor.dim + 1}, and 50000 to "
                "compare with publications"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate every ``eval_freq`` epochs, and after the last."""
        self._epochs_done = trainer.current_epoch + 1
        if self._epochs_done % self.eval_freq == 0 or is_last_epoch(trainer):
            for name, value in self._run(trainer, pl_module).items():
                # Every process has the same value, so averaging would only cost a collective call.
                pl_module.log(name, value, sync_dist=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate at the end of training if the last epoch was not known to be the last."""
        if self._epochs_done != self._evaluated_at:
            metrics = self._run(trainer, pl_module)
            # The module can no longer log at this point.
            for name, value in metrics.items():
                trainer.callback_metrics[name] = torch.tensor(value)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def _run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Evaluate between two epochs without changing the state of the training."""
        self._evaluated_at = self._epochs_done
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            log.info("no evaluation in a fast_dev_run")
            return {}
        if self.use_ema:
            as_flow_module(pl_module, self).warn_of_start()
        started = time.monotonic()
        # Frees cached memory of the training for the extractor.
        _release_memory(pl_module.device)
        try:
            with undisturbed(pl_module), torch.no_grad():
                found: Mapping[str, Any] | None = self._evaluate(trainer, pl_module, self._epochs_done - 1)
        finally:
            if self.extractor is not None:
                self.extractor.to("cpu")
            _release_memory(pl_module.device)
        self.metrics = {name: float(value) for name, value in (found or {}).items()}
        if trainer.is_global_zero:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            spent = format_seconds(time.monotonic() - started)
            log.info("evaluation after %d epochs (%s): %s", self._epochs_done, spent, numbers)
        return self.metrics

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        """Generate the images and score them; a collective call that returns the same metrics on all processes.

        Args:
            trainer: The trainer.
            pl_module: The model; it is in evaluation mode, with its own weights in place.
            epoch: The epoch that has just ended, from 0.

        Returns:
            ``eval/fid``, and ``eval/is`` if the extractor gives logits.

        Raises:
            DataError: If the model generates NaN or infinity.
        """
        assert self.extractor is not None and self._statistics is not None, "setup comes first"
        module = as_flow_module(pl_module, self)
        try:
            self.extractor.to(module.device)
            moments, logits = self._extract(trainer, module, self.extractor)
        except Exception:
            # The other processes must not wait forever for features of a failed one.
            _any_failed(trainer, True, module.device)
            raise
        if _any_failed(trainer, False, module.device):
            raise RuntimeError("the evaluation failed on another process; its own message says why")
        moments, logits = _merge(trainer, moments, logits, module.device)
        metrics = {"eval/fid": frechet_distance(moments.mean, moments.covariance, *self._statistics)}
        if logits is not None:
            # Drop the padding of the last round.
            score = inception_score(logits[: self.num_images], min(_SPLITS, self.num_images))
            metrics["eval/is"] = score.mean
        return metrics

    def _extract(
        self, trainer: pl.Trainer, module: FlowModule, extractor: FeatureExtractor
    ) -> tuple[Moments, Tensor | None]:
        """Generate this process's share of the images, every ``world_size``-th one, and extract features.

        Returns:
            Moments of the features of the share, and its logits, shape ``(ceil(num_images / world_size), K)``, on the
            CPU, if there are any.
        """
        world_size = trainer.world_size
        share = -(-self.num_images // world_size)
        moments = Moments(extractor.dim, module.device if module.device.type == "cuda" else "cpu")
        logits: list[Tensor] = []
        started = last_line = time.monotonic()
        for start in range(0, share, self.batch_size):
            # Every process generates equally many images; those beyond the last are padding and do not count.
            places = torch.arange(start, min(start + self.batch_size, share))
            index = trainer.global_rank + world_size * places
            seeds = (self.seed + index).tolist()
            samples = draw_samples(trainer, module, index % self.num_classes, seeds, use_ema=self.use_ema)
            _check_finite(samples)
            pixels = module.codec.decode(samples)
            with full_float32():
                output = extractor(pixels)
            moments.update(output.features[: int((index < self.num_images).sum())])
            if output.logits is not None:
                logits.append(output.logits.float().cpu())
            now, done = time.monotonic(), int(places[-1]) + 1
            if now - last_line >= LINE_EVERY_SEC and trainer.is_global_zero:
                last_line = now
                pace = done / (now - started)
                log.info(
                    "evaluation: %d/%d images  %.1f images/s  ETA %s",
                    min(done * world_size, self.num_images),
                    self.num_images,
                    pace * world_size,
                    format_seconds((share - done) / pace),
                )
        return moments, torch.cat(logits) if logits else None

    def _load_reference(self) -> Statistics:
        if self.reference is None:
            return load_statistics(find_statistics(self.img_size, self.num_classes, self.folder))
        if isinstance(self.reference, (str, Path)):
            return load_statistics(self.reference)
        return check_statistics(*self.reference, what="reference")


def _any_failed(trainer: pl.Trainer, failed: bool, device: torch.device) -> bool:
    """All-reduce the failure flag over all processes; a collective call."""
    if trainer.world_size == 1:
        return failed
    failures = torch.tensor(int(failed), device=device)
    return bool(trainer.strategy.all_gather(failures).any())


def _merge(
    trainer: pl.Trainer, moments: Moments, logits: Tensor | None, device: torch.device
) -> tuple[Moments, Tensor | None]:
    """All-gather moments and logits, in the same order on every process; a collective call."""
    if trainer.world_size == 1:
        return moments, logits
    gather = trainer.strategy.all_gather
    states = {name: gather(value.to(device)) for name, value in moments.state_dict().items()}
    merged = Moments(moments.dim, device)
    for rank in range(trainer.world_size):
        merged.merge(Moments.from_state_dict({name: values[rank] for name, values in states.items()}))
    if logits is not None:
        # (process, position, K) -> (position, process, K): the order of the images' indices.
        logits = gather(logits.to(device)).transpose(0, 1).flatten(0, 1).cpu()
    return merged, logits


def _check_finite(samples: Tensor) -> None:
    # Conversion to uint8 would give black or arbitrary pixels, and the score would look plausible.
    wrong = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
    if wrong:
        raise DataError(
            f"{wrong} of {len(samples)} generated images hold NaN or infinity; the model has diverged (lower the "
            "learning rate, or clip gradients)"
        )


def _release_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
