"""The base LightningModule of all applications: a codec, a network, and the flow between noise and data.

Every application trains and samples through this class (sampling is inherited from sampling.py, the averages of the
weights from averages.py, the optimiser from optim.py, class names from class_names.py). Users override its methods
(``generate``, ``_forward_sample``, ``_euler_step``, ...), so other code calls these methods and never bypasses them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jitflow import __version__
from jitflow.codec.base import Codec
from jitflow.codec.pixel import PixelCodec
from jitflow.core.condition_table import class_of
from jitflow.core.seeding import mix_seeds, noise_from_seeds, uniform_from_indices
from jitflow.errors import ConfigError
from jitflow.training.class_names import NamedClasses
from jitflow.training.compiled import CompiledLoss, compiles_loss, prepare_cuda
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.lightning_counters import ExactResume
from jitflow.training.loss import FlowLoss
from jitflow.training.methods.asym import AsymmetricPrediction, patch_size_of
from jitflow.training.methods.registry import build_terms
from jitflow.training.optim import Optimization
from jitflow.training.outputs import StepOutputs
from jitflow.training.terms import LossTerm, LossTerms
from jitflow.training.trained_on import MADE_BY, merge_spaces, optimised_spaces, read_spaces, spaces_entry

# Names of independent random streams drawn from one seed.
_STREAM_BATCH, _STREAM_LABEL, _STREAM_VALIDATION, _STREAM_CONDITION = 1, 2, 3, 4


class FlowModule(ExactResume, Optimization, NamedClasses, FlowLoss):
    """Train a flow-matching network, and sample from it.

    Args:
        codec: Converts between data and the model space.
        net: Network ``(x, t, label) -> prediction``, shapes ``(B, C, H, W)``, ``(B,)``, ``(B,)``.
        num_classes: Number of classes; this number is the null label.
        settings: Settings of the flow; each is an attribute of the module under its name.
        loss_terms: Losses added to the main loss, before those of the settings.

    Attributes:
        application: Name of the application, which checkpoints store; empty if the class belongs to none.
        has_release_format: Whether the JiT release's ``.pth`` format can hold the model.
        takes_codec_file: Whether part of the codec may be in a separate file, see :meth:`load_codec`.
        trained_on: Names of the feature extractors that a training of these weights optimised; checkpoints keep them.
        made_by: How a post-training made these weights, in words; empty for none. Checkpoints keep it.
        is_one_graph: Whether a compiled training step has no part that must stay uncompiled.
        settings_class: Dataclass of the constructor's further keywords, ``**settings``.

    Raises:
        ConfigError: If a setting is incompatible with the model space.
    """

    application: ClassVar[str] = ""
    has_release_format: ClassVar[bool] = False
    takes_codec_file: ClassVar[bool] = False
    is_one_graph: ClassVar[bool] = True
    settings_class: ClassVar[type[FlowSettings]] = FlowSettings

    self_conditioning_prob: float

    def __init__(
        self,
        codec: Codec,
        net: nn.Module,
        *,
        num_classes: int,
        settings: FlowSettings = FlowSettings(),  # noqa: B008 (frozen)
        loss_terms: Sequence[LossTerm] = (),
    ) -> None:
        super().__init__()
        self.codec = codec
        self.net = net
        self.num_classes = num_classes
        for field in fields(settings):
            if field.name != "loss_terms":
                setattr(self, field.name, getattr(settings, field.name))
        self.trained_on: tuple[str, ...] = ()
        self.made_by = ""
        self.optimizer_on_cpu = False
        self.run_seed: int | None = None
        self.compiled_loss = CompiledLoss(self)
        self._batch_index: Tensor | None = None
        self._batch_epoch = 0
        # What the random numbers of loss terms are drawn from, in a batch of a training.
        self._term_seeds: tuple[int, ...] = ()
        settings.check(codec.shape[0])
        self.asym = None
        if settings.prediction == "asym":
            self.asym = AsymmetricPrediction(patch_size_of(net), codec.shape[0], settings.asym_rank)
        self.loss_terms = LossTerms()
        for term in (*loss_terms, *build_terms(settings.loss_terms)):
            self.add_loss_term(term)

    @classmethod
    def settings_from_data(cls, info: Mapping[str, Any]) -> dict[str, Any]:
        """Return constructor arguments that the data determine, for those null in a recipe; none by default.

        Args:
            info: Description of the data (``get_dataset_info``); if empty, placeholders are returned, so that a model
                can be checked before its data are read.
        """
        return {}

    def load_codec(self, path: str | Path) -> None:
        """Load the part of the codec that checkpoints do not hold, such as the autoencoder of the latents.

        Args:
            path: File of the codec.

        Raises:
            ConfigError: If the model has no latents, or latents of another codec.
        """
        raise ConfigError(f"a {type(self).__name__} has no latents and cannot use {path} (vavae_path)")

    def drop_labels(self, labels: Tensor) -> Tensor:
        """Replace each label by the null label with probability ``label_drop_prob``, shape ``(B,)``.

        Of labels with named conditions, shape ``(B, 1 + K)``, class and conditions are dropped together so, and each by
        itself with probability ``condition_drop_prob``. In a training batch of this library's data modules the choice
        depends only on (seed, epoch, sample index); elsewhere it is drawn from the global generator.
        """
        together = self._uniform(labels, _STREAM_LABEL)
        if labels.ndim == 1:
            return self.drop(labels, together)
        alone = [self._uniform(labels, _STREAM_CONDITION, column) for column in range(labels.shape[1])]
        return self.drop(labels, together, torch.stack(alone, dim=1))

    def _uniform(self, labels: Tensor, stream: int, *column: int) -> Tensor:
        """Draw a number in ``[0, 1)`` for each label of a training batch, shape ``(B,)``."""
        index = self._batch_index
        if index is not None and len(index) == len(labels) and self.run_seed is not None:
            return uniform_from_indices(index, stream, self.run_seed, self._batch_epoch, *column).to(labels.device)
        return torch.rand(len(labels), device=labels.device)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Compute the loss of a batch ``(data, labels)`` at random times with random noise.

        An override may return only a loss tensor; callbacks then show less.

        Returns:
            ``loss``, 0-d, and for callbacks, detached: ``t``, time of each sample, shape ``(B,)``; ``losses``, loss
            of each sample, shape ``(B,)``; ``parts``, mean of each loss term by name.
        """
        owner = self.loss_terms.step_owner
        if owner is not None:
            epoch = getattr(batch, "epoch", self.current_epoch)
            outputs = owner.train_step(self, batch, (self.run_seed or 0, epoch, batch_idx))
            shown = {"loss": outputs.loss, **outputs.parts}
            self.log_dict(
                {f"train/{name}": part for name, part in shown.items() if part is not None}, batch_size=len(batch[1])
            )
            return outputs.as_dict()
        data, classes = batch
        x1 = self.codec.encode(data)
        labels = self.drop_labels(classes)
        t = self.sample_timestep(len(x1), device=x1.device).flatten()
        source = getattr(batch, "source", None)
        # The losses multiply it by the scale of noise, which a source does not have.
        noise = torch.randn_like(x1) if source is None else self.codec.encode(source) / self.noise_scale
        condition, t = self.training_condition(x1, t, batch)
        estimate = self.takes_hints and bool(torch.rand(()) < self.self_conditioning_prob)
        loss_parts = self.compiled_loss if compiles_loss(self, x1) else self.loss_parts
        further = {"data": data, "condition": condition, "estimate": estimate}
        if len(self.loss_terms):
            seeds = self._term_seeds or (int(torch.randint(1 << 62, ())),)
            draws = self.loss_terms.draw(x1, *seeds, progress=self._progress())
            further.update(classes=class_of(classes), draws=draws)
        parts = loss_parts(x1, labels, t, noise, **further)
        means = {name: part.mean() for name, part in parts.items()}
        loss = torch.stack(list(means.values())).sum()
        self.log("train/loss", loss, batch_size=len(x1))
        if len(means) > 1:
            self.log_dict({f"train/{name}": mean for name, mean in means.items()}, batch_size=len(x1))
        losses = torch.stack([part.detach() for part in parts.values()]).sum(dim=0)
        return StepOutputs(loss, t, losses, means).as_dict()

    def _progress(self) -> float | None:
        """Return the share of the training that is done; None if it has no end."""
        if self._trainer is None:
            return None
        steps = self._trainer.estimated_stepping_batches
        return min(1.0, self._trainer.global_step / steps) if 0 < steps < math.inf else None

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the validation loss with noise and time fixed for each sample, comparable between epochs."""
        data, labels = batch
        x1 = self.codec.encode(data)
        index = _sample_index(batch)
        if index is None:
            index = torch.arange(len(x1)) + batch_idx * len(x1)
        seeds = [mix_seeds(_STREAM_VALIDATION, i) for i in index.tolist()]
        # One draw per sample: the first number gives the time, the rest the noise.
        drawn = noise_from_seeds((1 + x1[0].numel(),), seeds, device=x1.device)
        t, noise = self._time_distribution().from_normal(drawn[:, 0]), drawn[:, 1:].reshape(x1.shape)
        source = getattr(batch, "source", None)
        if source is not None:
            noise = self.codec.encode(source) / self.noise_scale
        losses = {}
        further = {
            "data": data,
            "classes": class_of(labels),
            "draws": self.loss_terms.draw(x1, _STREAM_VALIDATION, batch_idx),
        }
        for name, weights in (("val/loss", nullcontext), ("val/loss_ema", self.ema_weights)):
            if name == "val/loss_ema" and not self.ema_params1:
                continue
            with weights():
                losses[name] = self.flow_loss(x1, labels, t, noise, **further).mean()
        self.log_dict(losses, batch_size=len(x1), sync_dist=True)
        return losses["val/loss"]

    def on_fit_start(self) -> None:
        """Fix the seed of the run, and check the data against the network before training; allow TF32 on CUDA."""
        if self.device.type == "cuda":
            prepare_cuda()
        if self.run_seed is None:
            self.run_seed = _run_seed()
        self.trained_on = merge_spaces(self.trained_on, optimised_spaces(self.loss_terms))
        if self.loss_terms.step_owner is not None:
            self.made_by = self.loss_terms.step_owner.summary
        data = getattr(self.trainer, "datamodule", None)
        describe = getattr(data, "get_dataset_info", None)
        if describe is not None:
            info = describe()
            self.check_data(info)
            self.check_conditions(info)
            self.adopt_data(info)
            self.adopt_conditions(info)
            self.transports = bool(info.get("transports"))
        if self.asym is not None:
            self.asym.adopt_data(self, data)

    def on_train_start(self) -> None:
        """Let the loss terms prepare on the device of the training, once its checkpoint is restored."""
        self.loss_terms.start(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random generators by (seed, epoch, batch, rank), and log the learning rate.

        A resumed run then draws the same noise, times and dropout as an uninterrupted one, without saving random
        states.
        """
        super().on_train_batch_start(batch, batch_idx)
        self._batch_index = _sample_index(batch)
        # The epoch that the data module drew the batch for, if the batch holds it.
        self._batch_epoch = getattr(batch, "epoch", self.current_epoch)
        if self.run_seed is not None:
            of_batch = (self.run_seed, self._batch_epoch, batch_idx, self.global_rank)
            torch.manual_seed(mix_seeds(_STREAM_BATCH, *of_batch))
            self._term_seeds = of_batch
        # Not every step, because each logged value is copied to the device.
        if batch_idx % 100 == 0:
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Clear the sample indices and the seeds of the batch."""
        self._batch_index, self._term_seeds = None, ()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add both averages, and the metadata to rebuild the module, to the checkpoint."""
        checkpoint["jitflow"] = {
            "version": __version__,
            "application": self.application,
            "module": f"{type(self).__module__}.{type(self).__qualname__}",
            "run_seed": self.run_seed,
            **({"transports": True} if self.transports else {}),
            **self.loss_terms.saved_record(),
            **spaces_entry(self.trained_on),
            **self.conditions_entry(),
            **({MADE_BY: self.made_by} if self.made_by else {}),
            **self.extra_state(),
        }
        self.save_averages(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore both averages, the seed of the run, and the position of trainer and data."""
        super().on_load_checkpoint(checkpoint)
        self.load_averages(checkpoint)
        extra = checkpoint.get("jitflow", {})
        self.run_seed = extra.get("run_seed", self.run_seed)
        self.trained_on = merge_spaces(self.trained_on, read_spaces(extra))
        self.made_by = str(extra.get(MADE_BY) or "")
        self.load_extra_state(extra)
        self.load_conditions(extra)
        self.loss_terms.check_record(extra)
        self.transports = bool(extra.get("transports"))
        states = checkpoint.get("optimizer_states", [])
        self.adopt_settings(states)
        self.choose_kernels(states)

    def check_data(self, info: dict[str, Any]) -> None:
        """Raise ConfigError if the data's description (``get_dataset_info``) does not fit this module.

        Also if the data have other classes than the resumed checkpoint.
        """
        if self.transports and not info.get("transports"):
            raise ConfigError("this model carries images of one data set to another; give the data their source_path")
        num_classes = info.get("num_classes")
        if num_classes is not None and num_classes > self.num_classes:
            raise ConfigError(
                f"the data has {num_classes} classes but the model only {self.num_classes}; "
                f"set num_classes={num_classes}"
            )
        self.check_class_names(info)
        size = info.get("img_size")
        if size is not None and isinstance(self.codec, PixelCodec):
            given = (size, size) if isinstance(size, int) else tuple(size)
            if given != self.codec.shape[1:]:
                raise ConfigError(
                    f"the data has images of {given[0]}x{given[1]} but the model takes "
                    f"{self.codec.shape[1]}x{self.codec.shape[2]}; give both the same img_size"
                )
            channels = info.get("channels", self.codec.shape[0])
            if channels != self.codec.shape[0]:
                raise ConfigError(
                    f"the data has {channels} channels but the model takes {self.codec.shape[0]}; "
                    "set the data's channels or the model's in_channels"
                )


def _sample_index(batch: Any) -> Tensor | None:
    """Return the sample indices of a batch (``batch.index``); None if it has none."""
    # Of a plain list or tuple it is a method.
    index = getattr(batch, "index", None)
    return index if isinstance(index, Tensor) else None


def _run_seed() -> int:
    given = os.environ.get("PL_GLOBAL_SEED")
    return int(given) if given else torch.initial_seed() >> 1
