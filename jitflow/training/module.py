"""The base LightningModule of all applications: a codec, a network, and the flow between noise and data.

Every application trains and samples through this class (sampling is inherited from sampling.py, the averages of the
weights from averages.py, the optimiser from optim.py, class names from class_names.py). Users override its methods
(``generate``, ``_forward_sample``, ``_euler_step``, ...), so other code calls these methods and never bypasses them.
"""

from __future__ import annotations

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
from jitflow.core.condition import Condition
from jitflow.core.loss import mse_per_sample
from jitflow.core.path import (
    data_from_velocity,
    interpolate,
    perfect_prediction,
    velocity_from_prediction,
)
from jitflow.core.seeding import mix_seeds, noise_from_seeds, uniform_from_indices
from jitflow.core.times import TimeDistribution, TimeKind
from jitflow.errors import ConfigError
from jitflow.training.class_names import NamedClasses
from jitflow.training.compiled import CompiledLoss, compiles_loss, prepare_cuda
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.lightning_counters import ExactResume
from jitflow.training.optim import AdamWOptimization
from jitflow.training.outputs import StepOutputs
from jitflow.training.sampling import FlowSampling, batch_time, floating_dtype
from jitflow.training.terms import FlowState, LossTerm
from jitflow.training.trained_on import merge_spaces, optimised_spaces, read_spaces, spaces_entry

# Names of independent random streams drawn from one seed.
_STREAM_BATCH, _STREAM_LABEL, _STREAM_VALIDATION = 1, 2, 3


class FlowModule(ExactResume, AdamWOptimization, NamedClasses, FlowSampling):
    """Train a flow-matching network, and sample from it.

    Args:
        codec: Converts between data and the model space.
        net: Network ``(x, t, label) -> prediction``, shapes ``(B, C, H, W)``, ``(B,)``, ``(B,)``.
        num_classes: Number of classes; this number is the null label.
        settings: Settings of the flow; each is an attribute of the module under its name.
        loss_terms: Losses added to the velocity loss.

    Attributes:
        application: Name of the application, which checkpoints store; empty if the class belongs to none.
        has_release_format: Whether the JiT release's ``.pth`` format can hold the model.
        takes_codec_file: Whether part of the codec may be in a separate file, see :meth:`load_codec`.
        trained_on: Names of the feature extractors that a training of these weights optimised; checkpoints keep them.
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

    P_mean: float
    P_std: float
    label_drop_prob: float
    time_kind: TimeKind
    self_conditioning_prob: float
    velocity_weight: float

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
            setattr(self, field.name, getattr(settings, field.name))
        self.loss_terms = list(loss_terms)
        self.trained_on: tuple[str, ...] = ()
        self.optimizer_on_cpu = False
        self.run_seed: int | None = None
        self.compiled_loss = CompiledLoss(self)
        self._batch_index: Tensor | None = None
        self._batch_epoch = 0
        settings.check(codec.shape[0])

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

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor, hint: Tensor | None = None) -> Tensor:
        """Predict from a noisy sample.

        Args:
            x: Path sample, shape ``(B, C, H, W)``.
            t: Time: a number, 0-d, ``(B,)`` or ``(B, 1, 1, 1)``; 0 is noise, 1 is data.
            y: Labels, shape ``(B,)``, int64.
            hint: Known parts or estimate of the data, shape ``(B, C, H, W)``, for a network with self-conditioning.

        Returns:
            Prediction, shape ``(B, C, H, W)``, in the network's precision.
        """
        dtype = floating_dtype(self.net)
        if hint is None:
            return self.net(x.to(dtype), batch_time(t, x), y)
        return self.net(x.to(dtype), batch_time(t, x), y, hint.to(dtype))

    def drop_labels(self, labels: Tensor) -> Tensor:
        """Replace each label by the null label with probability ``label_drop_prob``, shape ``(B,)``.

        In a training batch of this library's data modules the choice depends only on (seed, epoch, sample index);
        elsewhere it is drawn from the global generator.
        """
        index = self._batch_index
        if index is not None and len(index) == len(labels) and self.run_seed is not None:
            drawn = uniform_from_indices(index, _STREAM_LABEL, self.run_seed, self._batch_epoch).to(labels.device)
        else:
            drawn = torch.rand(len(labels), device=labels.device)
        return torch.where(drawn < self.label_drop_prob, self.num_classes, labels)

    def sample_timestep(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """Draw training times, shape ``(n, 1, 1, 1)``, ready to broadcast over images."""
        return self._time_distribution().sample(n, device=device).view(-1, 1, 1, 1)

    def flow_loss(
        self,
        x1: Tensor,
        labels: Tensor,
        t: Tensor,
        unit_noise: Tensor,
        *,
        data: Any = None,
        condition: Condition | None = None,
        estimate: bool = True,
    ) -> Tensor:
        """Compute the loss of each sample for given time and noise: the sum of :meth:`loss_parts`, shape ``(B,)``."""
        parts = self.loss_parts(x1, labels, t, unit_noise, data=data, condition=condition, estimate=estimate)
        return torch.stack(list(parts.values())).sum(dim=0)

    def loss_parts(
        self,
        x1: Tensor,
        labels: Tensor,
        t: Tensor,
        unit_noise: Tensor,
        *,
        data: Any = None,
        condition: Condition | None = None,
        estimate: bool = True,
    ) -> dict[str, Tensor]:
        """Compute every loss term of each sample for given time and noise.

        Args:
            x1: Data in the model space, shape ``(B, C, H, W)``.
            labels: Labels for the network, after label dropout, shape ``(B,)``.
            t: Time, shape ``(B,)``.
            unit_noise: Noise of standard deviation 1, shape ``(B, C, H, W)``.
            data: Data before encoding, for weights and terms that need them.
            condition: Known parts of the data; they stay clean and are excluded from the loss.
            estimate: Self-condition the network on its own estimate, as in sampling.

        Returns:
            By name, each of shape ``(B,)``, float32: ``velocity``, the mean squared error of the velocity, and the
            weighted terms.
        """
        condition = condition or Condition()
        x0 = unit_noise * self.noise_scale
        x_t = condition.apply_known(interpolate(x0, x1, t))
        hint = self._training_hint(x_t, t, labels, condition, estimate=estimate) if self.takes_hints else None
        output = self(x_t, t, labels, hint).float() if hint is not None else self(x_t, t, labels).float()
        target = perfect_prediction(x0, x1, prediction=self.prediction)
        v_pred = self.velocity_of(output, x_t, t)
        v_t = velocity_from_prediction(target, x_t, t, prediction=self.prediction, t_eps=self.t_eps)
        weight = condition.unknown_weight(self.loss_weight(data), x1)
        parts = {"velocity": self.velocity_weight * mse_per_sample(v_pred, v_t, weight=weight)}
        if self.loss_terms:
            state = FlowState(data, x1, x_t, t, output, v_pred, v_t, weight)
            parts.update({term.name: term.weight * term(state) for term in self.loss_terms})
        return parts

    def _training_hint(self, x_t: Tensor, t: Tensor, labels: Tensor, condition: Condition, *, estimate: bool) -> Tensor:
        """Return the self-conditioning input in training: the known parts, and the network's estimate if requested."""
        hint = condition.apply_known(self.first_hint(x_t, t))
        if not estimate:
            return hint
        with torch.no_grad():
            v = self.velocity_of(self(x_t, t, labels, hint).float(), x_t, t)
            return condition.apply_known(data_from_velocity(v, x_t, t, t_eps=self.t_eps))

    def loss_weight(self, data: Any) -> Tensor | None:
        """Return the loss weight of each element, broadcastable to ``(B, C, H, W)``; applications may override it.

        Args:
            data: Data before encoding.
        """
        return None

    def training_condition(self, x1: Tensor, t: Tensor, batch: Any) -> tuple[Condition, Tensor]:
        """Return known parts and times of a training batch: nothing and ``t``, unless overridden.

        Args:
            x1: Data in the model space, shape ``(B, C, H, W)``.
            t: Times drawn, shape ``(B,)``.
            batch: Batch from the data module.
        """
        return Condition(), t

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Compute the loss of a batch ``(data, labels)`` at random times with random noise.

        An override may return only a loss tensor; callbacks then show less.

        Returns:
            ``loss``, 0-d, and for callbacks, detached: ``t``, time of each sample, shape ``(B,)``; ``losses``, loss
            of each sample, shape ``(B,)``; ``parts``, mean of each loss term by name.
        """
        data, labels = batch
        x1 = self.codec.encode(data)
        labels = self.drop_labels(labels)
        t = self.sample_timestep(len(x1), device=x1.device).flatten()
        noise = torch.randn_like(x1)
        condition, t = self.training_condition(x1, t, batch)
        estimate = self.takes_hints and bool(torch.rand(()) < self.self_conditioning_prob)
        loss_parts = self.compiled_loss if compiles_loss(self, x1) else self.loss_parts
        parts = loss_parts(x1, labels, t, noise, data=data, condition=condition, estimate=estimate)
        means = {name: part.mean() for name, part in parts.items()}
        loss = torch.stack(list(means.values())).sum()
        self.log("train/loss", loss, batch_size=len(x1))
        if len(means) > 1:
            self.log_dict({f"train/{name}": mean for name, mean in means.items()}, batch_size=len(x1))
        losses = torch.stack([part.detach() for part in parts.values()]).sum(dim=0)
        return StepOutputs(loss, t, losses, means).as_dict()

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
        losses = {}
        for name, weights in (("val/loss", nullcontext), ("val/loss_ema", self.ema_weights)):
            if name == "val/loss_ema" and not self.ema_params1:
                continue
            with weights():
                losses[name] = self.flow_loss(x1, labels, t, noise, data=data).mean()
        self.log_dict(losses, batch_size=len(x1), sync_dist=True)
        return losses["val/loss"]

    def on_fit_start(self) -> None:
        """Fix the seed of the run, and check the data against the network before training; allow TF32 on CUDA."""
        if self.device.type == "cuda":
            prepare_cuda()
        if self.run_seed is None:
            self.run_seed = _run_seed()
        self.trained_on = merge_spaces(self.trained_on, optimised_spaces(self.loss_terms))
        data = getattr(self.trainer, "datamodule", None)
        describe = getattr(data, "get_dataset_info", None)
        if describe is not None:
            info = describe()
            self.check_data(info)
            self.adopt_data(info)

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
            torch.manual_seed(mix_seeds(_STREAM_BATCH, self.run_seed, self._batch_epoch, batch_idx, self.global_rank))
        # Not every step, because each logged value is copied to the device.
        if batch_idx % 100 == 0:
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Clear the sample indices of the batch."""
        self._batch_index = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add both averages, and the metadata to rebuild the module, to the checkpoint."""
        checkpoint["jitflow"] = {
            "version": __version__,
            "application": self.application,
            "module": f"{type(self).__module__}.{type(self).__qualname__}",
            "run_seed": self.run_seed,
            **spaces_entry(self.trained_on),
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
        self.load_extra_state(extra)
        states = checkpoint.get("optimizer_states", [])
        self.adopt_settings(states)
        self.choose_kernels(states)

    def _time_distribution(self) -> TimeDistribution:
        return TimeDistribution(self.time_kind, self.P_mean, self.P_std)

    def check_data(self, info: dict[str, Any]) -> None:
        """Raise ConfigError if the data's description (``get_dataset_info``) does not fit this module.

        Also if the data have other classes than the resumed checkpoint.
        """
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
