"""Solvers of ``dx/dt = velocity(x, t)`` along a grid of times, all with one signature.

A step is ``step(velocity, x, t, t_next) -> x_next`` with 0-d times; the velocity field sees times of shape
``(B,)``. Times stay on the CPU so that nothing in the loop waits for an accelerator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from jitflow.errors import ConfigError, unknown_name

Velocity = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]
OnStep = Callable[[int, int, float, Tensor], None]
GoBack = Callable[[int, Tensor, Tensor, Tensor], "tuple[Tensor, Tensor]"]


def _at(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    return velocity(x, t.expand(x.shape[0]))


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Euler's method, first order: follow the velocity at the start of the step; one evaluation."""
    return x + float(t_next - t) * _at(velocity, x, t)


def heun_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Heun's method, second order: mean of the velocities at the start and Euler's end point; two evaluations."""
    dt = float(t_next - t)
    v = _at(velocity, x, t)
    v_next = _at(velocity, x + dt * v, t_next)
    return x + dt * (0.5 * (v + v_next))


def midpoint_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Midpoint method, second order: velocity at the middle of the step; two evaluations, none at the path's end."""
    dt = float(t_next - t)
    x_middle = x + 0.5 * dt * _at(velocity, x, t)
    return x + dt * _at(velocity, x_middle, t + 0.5 * (t_next - t))


def multistep() -> Step:
    """Two-step Adams-Bashforth method: second order with one velocity evaluation a step.

    The first step is Euler's; its second-order local error occurs once, so the method stays second order. Steps may
    differ in length.

    Returns:
        A step function with state; create a new one for each trajectory.

    References:
        Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section III.5.
    """
    before: list[tuple[Tensor, float]] = []

    def step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        dt = float(t_next - t)
        v = _at(velocity, x, t)
        x_next = x + dt * v
        if before:
            v_before, dt_before = before.pop()
            x_next = x_next + (0.5 * dt * dt / dt_before) * (v - v_before)
        before.append((v, dt))
        return x_next

    return step


def consistency_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Follow the velocity to the data, wherever the step ends; noise is added before the next one; one evaluation."""
    return x + float(1 - t) * _at(velocity, x, t)


@dataclass(frozen=True)
class Solver:
    """A solver: its step functions and their number of network evaluations.

    Attributes:
        new_step: Creates the step function of one trajectory.
        evaluations: Network evaluations of one step.
        last_step: Step function of the last interval, if it differs.
        renoises: Whether every step reaches the data, so that :func:`integrate` needs ``go_back`` to add fresh noise
            between two steps; such a solver solves no equation.
    """

    new_step: Callable[[], Step]
    evaluations: int
    last_step: Step | None = None
    renoises: bool = False

    def num_evaluations(self, num_steps: int) -> int:
        """Return the number of velocity evaluations of a whole trajectory."""
        return self.evaluations * num_steps - (self.evaluations - 1 if self.last_step else 0)


SOLVERS: dict[str, Solver] = {
    "euler": Solver(lambda: euler_step, 1),
    # As in the JiT release: at t = 1 the velocity divides by zero, so the last step is Euler's.
    "heun": Solver(lambda: heun_step, 2, last_step=euler_step),
    "midpoint": Solver(lambda: midpoint_step, 2),
    "multistep": Solver(multistep, 1),
    # Sampling of consistency models, Song et al. 2023, arXiv:2303.01469, algorithm 1.
    "consistency": Solver(lambda: consistency_step, 1, renoises=True),
}
ODE_SOLVERS = tuple(name for name, solver in SOLVERS.items() if not solver.renoises)
"""Names of the solvers that follow the flow."""


def get_solver(name: str) -> Solver:
    """Return a solver by name; raise ConfigError with the nearest names if it is unknown."""
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    return SOLVERS[name]


def check_times(times: Iterable[float] | Tensor) -> None:
    """Raise ConfigError unless there are two or more times that increase within ``[0, 1]``."""
    values = [float(t) for t in times]
    increasing = all(a < b for a, b in itertools.pairwise(values))
    if len(values) < 2 or not increasing or values[0] < 0 or values[-1] > 1:
        raise ConfigError(f"times must be two or more numbers increasing within [0, 1]; got {values}")


def integrate(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    *,
    solver: str = "heun",
    on_step: OnStep | None = None,
    step: Step | None = None,
    last_step: Step | None = None,
    go_back: GoBack | None = None,
) -> Tensor:
    """Integrate a state along a velocity field with a solver.

    Args:
        velocity: Field ``(x, t) -> v`` with shapes ``(B, *S)``, ``(B,)`` -> ``(B, *S)``.
        x: State at ``times[0]``, shape ``(B, *S)``; float32 whatever the network computes in.
        times: Increasing times, shape ``(num_steps + 1,)``, on the CPU.
        solver: One of ``SOLVERS``.
        on_step: Called after each step with (steps done, total steps, time reached, state).
        step: A user's own step function in place of the solver's.
        last_step: A user's own last step, if the solver has a separate one.
        go_back: Called before each step but the first with (step, state, time, next time); returns the state and the
            0-d time at which the step starts instead, which makes the sampling stochastic.

    Returns:
        State at ``times[-1]``, shape ``(B, *S)``.

    Raises:
        ConfigError: If the solver is unknown or misses ``go_back``, or the times do not increase.
    """
    chosen = get_solver(solver)
    if chosen.renoises and go_back is None:
        raise ConfigError(f"the solver {solver} adds noise between two steps; give go_back, or use euler")
    check_times(times)
    take = step or chosen.new_step()
    take_last = (last_step or chosen.last_step) if chosen.last_step else None
    num_steps = len(times) - 1
    for i in range(num_steps):
        now = take_last if take_last is not None and i == num_steps - 1 else take
        start = times[i]
        if go_back is not None and i > 0:
            x, start = go_back(i, x, start, times[i + 1])
        x = now(velocity, x, start, times[i + 1])
        if on_step is not None:
            on_step(i + 1, num_steps, float(times[i + 1]), x)
    return x
