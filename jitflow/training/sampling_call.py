"""Settings and state of one sampling call, local to its thread.

Users override the methods of a module with the documented arguments only, so settings, hints and step callbacks reach
them through the call that runs in their thread. No state of a call is stored on the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from torch import Tensor

from jitflow.core.condition import Condition
from jitflow.core.solver import OnStep
from jitflow.errors import ConfigError
from jitflow.training.evaluation_graphs import EvaluationGraphs
from jitflow.training.modulation import ModulationTable
from jitflow.training.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from jitflow.core.guidance_rules import Rule
    from jitflow.training.velocity import GuidedVelocity

T = TypeVar("T")


@dataclass(eq=False)
class SamplingCall:
    """One sampling call on a module, in one thread.

    Attributes:
        module: The module.
        settings: Sampling settings.
        on_step: Called after each step.
        condition: Condition of the samples.
        hint: Latest estimate of the data, shape ``(B, C, H, W)``, for a self-conditioned network.
        modulation: Precomputed modulation by time and label; None to compute it at each step.
        graphs: CUDA graphs of its evaluations; None to launch the kernels of each one by one.
        rule: Rule of guidance of the trajectory, with its memory; None for a new one at each evaluation.
        weak: A weaker model for autoguidance, in place of the prediction without a class; None for none.
        drift: Strength of the stochastic equation in the current step; 0 follows the flow.
        outer: The enclosing call in the same thread.
    """

    module: GuidedVelocity
    settings: SamplingSettings
    on_step: OnStep | None = None
    condition: Condition = field(default_factory=Condition)
    hint: Tensor | None = None
    modulation: ModulationTable | None = None
    graphs: EvaluationGraphs | None = None
    rule: Rule | None = None
    weak: GuidedVelocity | None = None
    drift: float = 0.0
    outer: SamplingCall | None = None


# Every thread starts without a call.
_innermost: ContextVar[SamplingCall | None] = ContextVar("jitflow_sampling_call", default=None)


def running_call(module: GuidedVelocity) -> SamplingCall | None:
    """Return the innermost sampling call on a module in this thread; None if there is none."""
    call = _innermost.get()
    while call is not None and call.module is not module:
        call = call.outer
    return call


@contextmanager
def open_call(
    module: GuidedVelocity,
    *,
    on_step: OnStep | None = None,
    condition: Condition | None = None,
    weak: GuidedVelocity | None = None,
    **given: Any,
) -> Iterator[SamplingCall]:
    """Open a sampling call on a module, for the block and this thread.

    Args:
        module: The module. Its attributes are the defaults of the settings; inside another call on the same module
            they are that call's settings.
        on_step: Called after each step, after the callbacks of enclosing calls.
        condition: Condition of the samples.
        weak: A weaker model for autoguidance; that of the enclosing call by default.
        given: Fields of :class:`SamplingSettings`.

    Yields:
        The call.

    Raises:
        ConfigError: If a setting is out of range.
    """
    settings = SamplingSettings.of(module, **given)
    settings.check(module.codec.shape[0])
    if settings.temperature != 1 and not module.takes_temperature:
        raise ConfigError("temperature needs log-probabilities, which this model does not have; leave it at 1")
    enclosing = running_call(module)
    outer_on_step = None if enclosing is None else enclosing.on_step
    call = SamplingCall(
        module,
        settings,
        on_step=_chain(outer_on_step, on_step)
        if outer_on_step is not None and on_step is not None
        else on_step or outer_on_step,
        condition=condition or Condition(),
        weak=weak or (None if enclosing is None else enclosing.weak),
        outer=_innermost.get(),
    )
    token = _innermost.set(call)
    try:
        hidden = [name for name, value in given.items() if getattr(module, name) != value]
        if hidden:
            raise ConfigError(
                f"{type(module).__name__} defines {hidden[0]} as a class attribute, which hides the setting; "
                "set it in __init__ instead"
            )
        yield call
    finally:
        _innermost.reset(token)


def _chain(first: OnStep, second: OnStep) -> OnStep:
    def on_step(done: int, total: int, t: float, x: Tensor) -> None:
        first(done, total, t, x)
        second(done, total, t, x)

    return on_step


class CallSetting(Generic[T]):
    """Descriptor of a module attribute that holds a sampling setting.

    Inside a call on the module it reads and writes the call's setting; elsewhere it is an ordinary attribute, the
    default of later calls.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, module: None, owner: type) -> CallSetting[T]: ...

    @overload
    def __get__(self, module: GuidedVelocity, owner: type) -> T: ...

    def __get__(self, module: GuidedVelocity | None, owner: type) -> CallSetting[T] | T:
        if module is None:
            return self
        call = running_call(module)
        if call is not None:
            found: T = getattr(call.settings, self.name)
            return found
        if self.name not in vars(module):
            raise AttributeError(f"{owner.__name__} has not set {self.name} yet")
        stored: T = vars(module)[self.name]
        return stored

    def __set__(self, module: GuidedVelocity, value: T) -> None:
        call = running_call(module)
        if call is not None:
            changed: dict[str, Any] = {self.name: value}
            call.settings = replace(call.settings, **changed)
        else:
            vars(module)[self.name] = value
