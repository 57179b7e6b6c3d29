"""Settings of a flow between noise and images that are text."""

from __future__ import annotations

from dataclasses import dataclass, field

from jitflow.core.path import Prediction
from jitflow.errors import ConfigError
from jitflow.training.flow_settings import FlowSettings


@dataclass(frozen=True)
class TextFlowSettings(FlowSettings):
    """Settings of a flow between noise and images that are text; it has no classes, and so no guidance.

    Attributes:
        predict_clean: Predict the image; False predicts the velocity.
        cross_entropy_weight: Weight of the tokens' cross-entropy among the losses; 0 leaves it out.
        pad_weight: Weight of padding in the losses. Not 0, or a sampler would never learn where a text ends.
        infill_prob: Share of training texts that have gaps: most tokens are shown clean, of the others hardly anything.
            From noisy texts alone a network learns to use context late: what a place says by itself is worth more at
            first, and it stays there for long.
        prompt_prob: Share of the other training texts of which a random beginning is known; it is shown clean.
        t_eps: Smallest ``1 - t`` that a data prediction is divided by. No larger than the last step of sampling, or
            a sample keeps some of its noise, which the mappings of one pixel cannot bear.

    Raises:
        ConfigError: If a value is out of its range, or both losses are left out.
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
        """Check the ranges, and derive what is predicted."""
        object.__setattr__(self, "prediction", "data" if self.predict_clean else "velocity")
        super().__post_init__()
        if not self.cross_entropy_weight >= 0:
            raise ConfigError(f"cross_entropy_weight must not be negative; got {self.cross_entropy_weight}")
        if not self.velocity_weight + self.cross_entropy_weight > 0:
            raise ConfigError("velocity_weight and cross_entropy_weight are both 0, so there is nothing to learn from")
        for name in ("pad_weight", "infill_prob", "prompt_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
