"""Requests of the studio page, validated before any work starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from jitflow.applications import load_object
from jitflow.core.solver import get_solver
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError
from jitflow.model import Model
from jitflow.training.module import FlowModule
from jitflow.training.sections import parse_interval

MAX_IMAGES = 32
MAX_STEPS = 500
MAX_GUIDANCE = 1000
MAX_CHARACTERS = 100_000
_MAX_SEED = 2**53


@dataclass(frozen=True)
class Request:
    """Sampling request: the values of the page's fields.

    Attributes:
        subject: Condition in the application's form: classes such as ``0,3,7-9`` or ``all``, users, a prompt.
        count: Samples of each condition.
        seed: Seed of the first image; the others follow.
        ema: Average of the weights, 1 or 2; 0 for the weights themselves.
        solver: Name of the solver.
        steps: Number of solver steps.
        guidance: Guidance scale; 1 for none.
        interval: Times ``low,high`` between which guidance acts.
        churn: Amount of noise re-added before each step, in steps.
    """

    subject: str
    count: int = 1
    seed: int = 0
    ema: int = 1
    solver: str = "heun"
    steps: int = 50
    guidance: float = 1.0
    interval: str = "0,1"
    churn: float = 0.0


def default_request(model: Model) -> Request:
    """Return a request with the model's own sampling settings."""
    module = model.module
    low, high = module.cfg_interval
    return Request(
        subject=load_object(model.application.subject.first)(module),
        count=2,
        ema=1 if module.ema_params1 else 0,
        solver=module.sampling_method,
        steps=module.num_sampling_steps,
        guidance=module.cfg_scale,
        interval=f"{low:g},{high:g}",
        churn=module.churn,
    )


def available_averages(module: FlowModule) -> list[int]:
    """Return the averages that a model has, the weights themselves (0) last."""
    held = [n for n, weights in ((1, module.ema_params1), (2, module.ema_params2)) if weights]
    return [*held, 0]


def sample_arguments(request: Request, model: Model) -> dict[str, Any]:
    """Return a request's arguments for :meth:`jitflow.model.Model.sample`, by the application's names."""
    # With named conditions the field takes them too, such as user=4,activity=run.
    named = model.module.conditions is not None and "=" in request.subject
    return {"conditions" if named else model.application.subject.word: request.subject, "num": request.count}


def check(request: Request, model: Model) -> None:
    """Raise ConfigError, with a message for the page, unless the model can generate a request's samples."""
    module = model.module
    for name in ("subject", "solver", "interval"):
        _check_text(name, getattr(request, name))
    whole = {"count": request.count, "seed": request.seed, "steps": request.steps, "EMA": request.ema}
    for name, value in whole.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{name} must be a whole number; got {_shown(value)}")
    if not 1 <= request.count <= MAX_IMAGES:
        raise ConfigError(f"count must lie between 1 and {MAX_IMAGES}; got {_shown(request.count)}")
    if not 0 <= request.seed < _MAX_SEED:
        raise ConfigError(f"seed must lie between 0 and {_MAX_SEED}; got {_shown(request.seed)}")
    if not 1 <= request.steps <= MAX_STEPS:
        raise ConfigError(f"steps must lie between 1 and {MAX_STEPS}; got {_shown(request.steps)}")
    if request.ema not in available_averages(module):
        held = ", ".join(map(str, available_averages(module)))
        raise ConfigError(
            f"this model has no EMA {_shown(request.ema)}; choose one of {held} (0: the weights themselves)"
        )
    get_solver(request.solver)
    time_grid(request.steps)
    if not _is_number(request.guidance):
        raise ConfigError(f"guidance must be a number; got {_shown(request.guidance)}")
    if abs(request.guidance) > MAX_GUIDANCE:
        raise ConfigError(f"guidance must lie between -{MAX_GUIDANCE} and {MAX_GUIDANCE}; got {request.guidance:g}")
    model.check_settings(guidance=request.guidance)
    parse_interval(request.interval)
    if not (_is_number(request.churn) and 0 <= request.churn <= MAX_STEPS):
        raise ConfigError(f"churn must be a number between 0 and {MAX_STEPS}; got {_shown(request.churn)}")
    num = len(model.ask(**sample_arguments(request, model)))
    if num > MAX_IMAGES:
        raise ConfigError(f"this would be {num} images, at most {MAX_IMAGES} are drawn at a time; ask for fewer")


def _check_text(name: str, value: Any) -> None:
    """Raise ConfigError unless a field holds text of a bounded length that can be encoded."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text; got {_shown(value)}")
    if len(value) > MAX_CHARACTERS:
        raise ConfigError(f"{name} has {len(value)} characters, of at most {MAX_CHARACTERS}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} holds half a character at position {error.start}; type it anew") from None


def _is_number(value: Any) -> bool:
    # Not math.isfinite, which fails for an integer that is too large for a float.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _shown(value: Any) -> str:
    """Return a short text of a value of any kind."""
    try:
        text = "nothing" if value is None else str(value)
    except ValueError:
        # An integer of more digits than Python prints.
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}..."
