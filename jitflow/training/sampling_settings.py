"""Sampling settings: everything besides condition, weights and seeds that determines a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from jitflow.core.guidance import check_interval
from jitflow.core.guidance_rules import RuleName, build_rule
from jitflow.core.solver import get_solver
from jitflow.core.stochastic import check_stochastic
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError, unknown_name

# Short argument names of sampling, and the settings that they set.
_SHORT_NAMES = {
    "guidance": "cfg_scale",
    "interval": "cfg_interval",
    "solver": "sampling_method",
    "steps": "num_sampling_steps",
    "time_shift": "time_shift",
    "churn": "churn",
    "sde": "sde",
    "guidance_rule": "guidance_rule",
    "apg_eta": "apg_eta",
    "apg_norm": "apg_norm",
    "apg_momentum": "apg_momentum",
    "internal_guidance": "internal_guidance",
    "guide_by": "guide_by",
    "temperature": "temperature",
}
FURTHER_WORDS = (
    *("sde", "guidance_rule", "apg_eta", "apg_norm", "apg_momentum", "internal_guidance", "autoguide", "guide_by"),
)
"""Words of sampling that :meth:`jitflow.model.Model.sample` takes without naming them as arguments."""

# Of any use is 10; numbers of half precision end at 65504.
_MOST_GUIDANCE = 1e4


@dataclass(frozen=True)
class SamplingSettings:
    """Sampling settings. A module has an attribute of the same name for each, its default.

    Attributes:
        sampling_method: Solver: ``euler``, ``heun``, ``midpoint``, ``multistep`` or ``consistency``.
        num_sampling_steps: Steps of the solver.
        cfg_scale: Guidance scale; 1 for none.
        cfg_interval: Times (low, high) between which guidance acts; 0 is noise, 1 is data.
        time_shift: Above 1 moves sampling times towards the noise.
        cfg_channels: Guide only this many leading channels; None guides all.
        guidance_rule: How the predictions with and without the class are combined: ``cfg``, ``apg`` or ``cfg_zero``,
            see :mod:`jitflow.core.guidance_rules`.
        apg_eta: For ``apg``: factor of the difference's part along the prediction.
        apg_norm: For ``apg``: largest root mean square of the difference; 0 for no limit.
        apg_momentum: For ``apg``: factor of earlier differences, negative to push away from them.
        internal_guidance: Scale of the guidance by an inner layer, which a model trained with the loss term
            ``internal_guidance`` has; 1 for none.
        guide_by: What guidance leaves out of its second pass: ``all``, or for a model with named conditions some of
            them, with commas between their names.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        sde: Strength of the stochastic equation in place of the flow, see :mod:`jitflow.core.stochastic`; 0 is
            deterministic, 1 replaces noise about as fast as the flow removes it.
        temperature: Divides log-probabilities if the model has them; below 1 it favours likely tokens.
    """

    sampling_method: str = "heun"
    num_sampling_steps: int = 50
    cfg_scale: float = 1.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    time_shift: float = 1.0
    cfg_channels: int | None = None
    guidance_rule: RuleName = "cfg"
    apg_eta: float = 0.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0
    internal_guidance: float = 1.0
    guide_by: str = "all"
    churn: float = 0.0
    sde: float = 0.0
    temperature: float = 1.0

    @classmethod
    def of(cls, module: Any, **given: Any) -> SamplingSettings:
        """Read the sampling settings from a module's attributes.

        Args:
            module: Module with an attribute for each setting.
            given: Settings that override the module's.
        """
        return cls(**{f.name: given.get(f.name, getattr(module, f.name)) for f in fields(cls)})

    def check(self, num_channels: int) -> None:
        """Raise ConfigError if a setting is out of range, or two are incompatible.

        Args:
            num_channels: Channels of the model space.
        """
        get_solver(self.sampling_method)
        if not math.isfinite(self.cfg_scale):
            raise ConfigError(f"the guidance scale must be a number; got {self.cfg_scale}")
        if abs(self.cfg_scale) > _MOST_GUIDANCE:
            raise ConfigError(f"the guidance scale must be at most {_MOST_GUIDANCE:g}; got {self.cfg_scale}")
        build_rule(self.guidance_rule, eta=self.apg_eta, norm=self.apg_norm, momentum=self.apg_momentum)
        for name in ("apg_eta", "internal_guidance"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} must be a number; got {getattr(self, name)}")
        check_stochastic(churn=self.churn, sde=self.sde, solver=self.sampling_method)
        if self.cfg_channels is not None and not 1 <= self.cfg_channels <= num_channels:
            raise ConfigError(
                f"cfg_channels must lie between 1 and the {num_channels} channels; got {self.cfg_channels}"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature must be positive; got {self.temperature}")
        check_interval(self.cfg_interval)
        time_grid(self.num_sampling_steps, shift=self.time_shift)


def settings_from_words(**given: Any) -> dict[str, Any]:
    """Translate the short argument names of sampling into the fields of :class:`SamplingSettings`.

    Args:
        given: Values by the argument names of :meth:`jitflow.model.Model.sample`, from ``guidance`` to
            ``temperature``; None leaves a setting out.

    Returns:
        The given settings by field name.

    Raises:
        ConfigError: If a name is unknown.
    """
    for name in given:
        if name not in _SHORT_NAMES:
            raise unknown_name("setting of sampling", name, _SHORT_NAMES)
    return {_SHORT_NAMES[name]: value for name, value in given.items() if value is not None}
