"""Time distributions for training and time grids for sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jitflow.errors import ConfigError, check_count, unknown_name

TimeKind = Literal["logit_normal", "uniform"]
TIME_KINDS: tuple[TimeKind, ...] = ("logit_normal", "uniform")

_MOST_STEPS = 100_000


@dataclass(frozen=True)
class TimeDistribution:
    """Distribution of the training times.

    Every kind maps one standard normal number to a time, so that validation can fix that number for each sample.

    Attributes:
        kind: ``"logit_normal"``: ``t = sigmoid(mean + std z)``; ``"uniform"``: ``t = Phi(z)``.
        mean: Mean of the logit; negative values favour the noisy end.
        std: Standard deviation of the logit.
        shift: Time shift applied afterwards, see :func:`shift_times`.

    References:
        Esser et al. 2024, arXiv:2403.03206, section 3.1; Li & He 2025, arXiv:2511.13720, section 4.
    """

    kind: TimeKind = "logit_normal"
    mean: float = -0.8
    std: float = 0.8
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in TIME_KINDS:
            raise unknown_name("time distribution", self.kind, TIME_KINDS)
        if self.std < 0:
            raise ConfigError(f"the standard deviation of the times must not be negative; got {self.std}")

    def from_normal(self, z: Tensor) -> Tensor:
        """Map standard normal numbers of any shape to times in ``[0, 1]``; 0 is noise, 1 is data."""
        t = torch.sigmoid(self.mean + self.std * z) if self.kind == "logit_normal" else torch.special.ndtr(z)
        return shift_times(t, self.shift)

    def sample(
        self, num: int, *, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw times, shape ``(num,)``, float32, from ``generator`` or the global one."""
        return self.from_normal(torch.randn(num, device=device, generator=generator))


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Shift times towards the noise: ``t / (t + shift (1 - t))``.

    With ``s = 1 - t`` the noise share this is ``shift s / (1 + (shift - 1) s)``. It keeps both ends and
    the order, and ``shift_times(shift_times(t, a), b)`` equals ``shift_times(t, a * b)``.

    Args:
        t: Times of any shape, in ``[0, 1]``; 0 is noise, 1 is data.
        shift: Above 1 favours the noisy end, 1 changes nothing; positive.

    Returns:
        Shifted times, shape of ``t``.

    Raises:
        ConfigError: If ``shift`` is not positive.

    References:
        Esser et al. 2024, arXiv:2403.03206, equation 23.
    """
    if not shift > 0:
        raise ConfigError(f"the time shift must be positive; got {shift}")
    if shift == 1:
        return t
    return t / (t + shift * (1 - t))


def time_grid(num_steps: int, *, shift: float = 1.0) -> Tensor:
    """Time grid of a solver: ``num_steps + 1`` points from 0 to 1.

    The grid stays on the CPU in float32: it controls the loop (which step is last, whether guidance is on)
    and must be readable without waiting for an accelerator.

    Args:
        num_steps: Number of steps, at least 1.
        shift: See :func:`shift_times`.

    Returns:
        Increasing times, shape ``(num_steps + 1,)``, float32, on the CPU.

    Raises:
        ConfigError: If ``num_steps`` is below 1 or above 100,000, or ``shift`` is not positive.
    """
    if isinstance(num_steps, bool) or not math.isfinite(num_steps) or num_steps % 1 or num_steps < 1:
        raise ConfigError(f"the number of sampling steps must be a whole number of at least 1; got {num_steps}")
    check_count("the number of sampling steps", int(num_steps), most=_MOST_STEPS)
    return shift_times(torch.linspace(0.0, 1.0, int(num_steps) + 1), shift)
