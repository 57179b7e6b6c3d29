"""Settings of a text model's evaluation: amount of text, noise levels, and sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jitflow.errors import MOST_SAMPLES, ConfigError, check_count

TIMES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
RECOVERY_TIME = 0.3


@dataclass(frozen=True)
class TextEvaluation:
    """Settings of a text model's evaluation.

    Attributes:
        num_texts: Held-out windows to read, spread over the held-out text; fewer if there are not so many.
        num_samples: Texts to generate; 0 skips the scores of samples.
        seed: Seed of the first noise; the others follow.
        ema: Average of the weights, 1 or 2; 0 for the weights themselves. None is 1 if the model has one, else 0.
        times: Times of the noisy texts, in ``(0, 1)``.
        recovery_time: Time from which texts are recovered, in ``[0, 1)``.
        sampling: Sampling settings, as arguments of :meth:`jitflow.model.Model.sample`; others are the model's own.
        batch_size: Images at a time.
        precision: Precision inside the network, as :meth:`jitflow.model.Model.sample` takes it.

    Raises:
        ConfigError: If a number is out of range.
    """

    num_texts: int = 64
    num_samples: int = 64
    seed: int = 0
    ema: int | None = None
    times: Sequence[float] = TIMES
    recovery_time: float = RECOVERY_TIME
    sampling: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_count("num_texts", self.num_texts, most=MOST_SAMPLES)
        check_count("batch_size", self.batch_size)
        check_count("num_samples", self.num_samples, least=0, most=MOST_SAMPLES)
        if not self.times or not all(0 < t < 1 for t in self.times):
            raise ConfigError(f"times must be numbers between 0 and 1; got {list(self.times)}")
        if not 0 <= self.recovery_time < 1:
            raise ConfigError(f"recovery_time must lie in [0, 1); got {self.recovery_time}")

    @property
    def call(self) -> dict[str, Any]:
        """Return the arguments of :meth:`jitflow.model.Model.sample` besides condition and seeds."""
        return {**self.sampling, "ema": self.ema, "batch_size": self.batch_size, "precision": self.precision}
