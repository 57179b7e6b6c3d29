"""Settings of a flow model: path, losses, optimiser, averages, and defaults of sampling."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, get_args

from jitflow.core.path import PREDICTIONS, ModelPrediction, Prediction
from jitflow.core.times import TimeDistribution, TimeKind
from jitflow.errors import ConfigError, unknown_name
from jitflow.training.optimizers import OPTIMIZERS, OptimizerName
from jitflow.training.sampling_settings import SamplingSettings


@dataclass(frozen=True)
class FlowSettings(SamplingSettings):
    """Training settings of a flow model, and its sampling defaults.

    An application subclasses these with its own defaults, which are written nowhere else.

    Attributes:
        learning_rate: Step size of AdamW.
        weight_decay: Decay of matrices; vectors and biases never decay.
        ema_decay1: Decay of the first average of the weights, the one that is sampled from. In a recipe null
            derives both decays from the length of the training.
        ema_decay2: Decay of the second average.
        ema_warmup: Start both averages with small decays, ``min(decay, (1 + n) / (10 + n))`` in update ``n``, so that
            they soon forget the initial weights.
        P_mean: Mean of the logit of the training times.
        P_std: Standard deviation of the logit of the training times.
        noise_scale: Standard deviation of the noise; the JiT release uses image size / 256.
        t_eps: Smallest ``1 - t`` that a data prediction is divided by, in training and sampling.
        label_drop_prob: Share of training labels replaced by the null label, which guidance needs.
        condition_drop_prob: For a model with named conditions: share of the other labels in which one of them, or the
            class, is null by itself, for each; guidance by some of them needs it.
        prediction: What the network predicts: ``data``, ``velocity``, ``noise``, or ``asym``: velocity in a few
            principal directions of clean patches, data in all others.
        asym_rank: For ``asym``: number of these directions.
        time_kind: Distribution of the training times: ``logit_normal`` or ``uniform``.
        self_conditioning_prob: Share of training batches in which a network that takes hints is given its own
            estimate of the data.
        loss_on: Space of the main loss, a mean squared error: ``velocity``, ``data`` or ``noise``.
        velocity_weight: Weight of the main loss among the losses.
        loss_terms: Further losses, each with its arguments by name, such as ``{dispersive: {weight: 0.25}}``; a name
            of ``docs/methods``, or the dotted name of your own class.
        optimizer: ``adamw``, or ``muon`` for Muon on the matrices of the blocks and AdamW on the rest.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    ema_decay1: float | None = 0.9999
    ema_decay2: float | None = 0.9996
    ema_warmup: bool = False
    P_mean: float = -0.8
    P_std: float = 0.8
    noise_scale: float = 1.0
    t_eps: float = 5e-2
    label_drop_prob: float = 0.1
    condition_drop_prob: float = 0.1
    prediction: ModelPrediction = "data"
    asym_rank: int = 8
    time_kind: TimeKind = "logit_normal"
    self_conditioning_prob: float = 0.5
    loss_on: Prediction = "velocity"
    velocity_weight: float = 1.0
    loss_terms: dict[str, Any] | None = None
    optimizer: OptimizerName = "adamw"
    # Chosen for each sampling call, not stored with a model.
    temperature: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        """Check every range that does not depend on the model space."""
        # YAML and JSON have no tuples.
        object.__setattr__(self, "cfg_interval", tuple(self.cfg_interval))
        for name in ("label_drop_prob", "condition_drop_prob", "self_conditioning_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
        if not 0 < self.t_eps < 1:
            raise ConfigError(f"t_eps must lie between 0 and 1; got {self.t_eps}")
        for name in ("learning_rate", "noise_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("weight_decay", "velocity_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative; got {getattr(self, name)}")
        for name, decay in (("ema_decay1", self.ema_decay1), ("ema_decay2", self.ema_decay2)):
            if decay is None:
                raise ConfigError(f"{name} can be null only in a recipe; give a number")
            if not 0 <= decay <= 1:
                raise ConfigError(f"{name} must lie in [0, 1]; got {decay}")
        for name, value, known in (
            ("prediction", self.prediction, get_args(ModelPrediction)),
            ("loss_on", self.loss_on, PREDICTIONS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        TimeDistribution(self.time_kind, self.P_mean, self.P_std)

    def arguments(self) -> dict[str, Any]:
        """Return the constructor settings by name, as stored in a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}
