"""Options that several commands share, in sections: ``--sampling.steps 50``, ``--compute.device cpu``.

Nothing here imports torch, so that help answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from jitflow.errors import ConfigError

Precision = Literal["auto", "32", "bf16", "16"]


@dataclass(frozen=True)
class SamplingOptions:
    """How samples are drawn. What is not given is the model's own setting.

    Attributes:
        guidance: Guidance scale; 1 for none.
        interval: Times low,high between which guidance acts; 0 is noise, 1 is data.
        solver: euler, heun, midpoint, multistep or consistency.
        steps: Steps of the solver.
        time_shift: Above 1 puts more of the steps near the noise, below 1 near the data.
        guidance_rule: How predictions with and without the class are combined: cfg, apg or cfg_zero.
        apg_eta: For apg: factor of the difference's part along the prediction.
        apg_norm: For apg: largest root mean square of the difference; 0 for no limit.
        apg_momentum: For apg: factor of earlier differences, negative to push away from them.
        internal_guidance: Scale of the guidance by an inner layer, if the model was trained with one; 1 for none.
        guide_by: For a model with named conditions: those that guidance acts by; all by default.
        autoguide: A smaller or younger checkpoint, whose prediction takes the place of that without a class.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        sde: Strength of the stochastic equation that SiT samples with, in place of the flow; 0 is deterministic.
        temperature: For text: below 1 it writes what is likeliest.
    """

    guidance: float | None = None
    interval: str | None = None
    solver: str | None = None
    steps: int | None = None
    time_shift: float | None = None
    guidance_rule: str | None = None
    apg_eta: float | None = None
    apg_norm: float | None = None
    apg_momentum: float | None = None
    internal_guidance: float | None = None
    guide_by: str | None = None
    autoguide: str | None = None
    churn: float | None = None
    sde: float | None = None
    temperature: float | None = None

    def settings(self) -> dict[str, Any]:
        """Return the arguments of :meth:`jitflow.model.Model.sample` that were given.

        Raises:
            ConfigError: If the interval is none.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if self.interval is not None:
            given["interval"] = parse_interval(self.interval)
        return given


@dataclass(frozen=True)
class ComputeOptions:
    """Device and batch size of a command; results do not depend on them, but for rounding.

    Attributes:
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
        batch_size: Samples at a time.
    """

    device: str | None = None
    batch_size: int = 64


@dataclass(frozen=True)
class PrecisionOptions(ComputeOptions):
    """Device, batch size and precision of a command.

    Attributes:
        precision: Precision inside the network; auto is bf16 on a GPU that has it, and 32 elsewhere.
    """

    precision: Precision = "auto"


def parse_interval(text: str) -> tuple[float, float]:
    """Parse a guidance interval such as ``"0.1,1.0"``; raise ConfigError if it is invalid or reversed."""
    from jitflow.core.guidance import check_interval

    try:
        low, high = (float(end) for end in text.strip("[]()").split(","))
    except ValueError:
        raise ConfigError(f"the guidance interval must look like 0.1,1.0; got {text!r}") from None
    return check_interval((low, high))
