"""Training settings of a flow between noise and text images."""

from __future__ import annotations

from dataclasses import dataclass, field

from jitflow.core.path import Prediction
from jitflow.errors import ConfigError
from jitflow.training.flow_settings import FlowSettings


@dataclass(frozen=True)
class TextFlowSettings(FlowSettings):
    """Settings of a flow between noise and text images, which has no classes and so no guidance.

    Attributes:
        predict_clean: Predict the image; False predicts the velocity.
        cross_entropy_weight: Weight of the token cross-entropy loss; 0 disables it.
        pad_weight: Weight of padding in the losses; at 0 a model would never learn where a text ends.
        infill_prob: Share of training texts with infilling: most tokens are shown clean, the others almost as pure
            noise. On noisy texts alone a network first learns to read each position by itself, and learns to use
            context only after a long plateau.
        prompt_prob: Share of the other training texts with a clean prefix of random length.
        t_eps: Smallest ``1 - t`` that a data prediction is divided by. It must not exceed the last sampling step, or
            samples keep noise, which one-pixel mappings cannot decode.

    Raises:
        ConfigError: If a value is out of its range, or both losses have weight 0.
    """

    predict_clean: bool = True
    cross_entropy_weight: float = 1.0
    pad_weight: float = 0.1
    infill_prob: float = 0.75
    prompt_prob: float = 0.25
    t_eps: float = 1e-2
    sampling_method: str = "euler"
    num_sampling_steps: int = 100
    label_drop_prob: float = field(init=False, default=0.0)
    cfg_scale: float = field(init=False, default=1.0)
    cfg_interval: tuple[float, float] = field(init=False, default=(0.0, 1.0))
    cfg_channels: int | None = field(init=False, default=None)
    prediction: Prediction = field(init=False, default="data")

    def __post_init__(self) -> None:
        """Check the ranges, and derive the prediction target from ``predict_clean``."""
        object.__setattr__(self, "prediction", "data" if self.predict_clean else "velocity")
        super().__post_init__()
        if not self.cross_entropy_weight >= 0:
            raise ConfigError(f"cross_entropy_weight must not be negative; got {self.cross_entropy_weight}")
        if not self.velocity_weight + self.cross_entropy_weight > 0:
            raise ConfigError("velocity_weight and cross_entropy_weight are both 0; at least one must be positive")
        for name in ("pad_weight", "infill_prob", "prompt_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
