"""Run a solver backwards: from data to the noise that the solver carries to it.

Each step is undone by a fixed-point iteration, so that the steps forwards lead back to where the inversion began.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jitflow.core.solver import OnStep, Step, Velocity, check_times, get_solver
from jitflow.errors import ConfigError, check_count


@dataclass(frozen=True)
class Inverted:
    """The start of a trajectory that was found from its end.

    Attributes:
        x: State at the first time, shape ``(B, *S)``.
        residual: Largest error that a step of the solver makes from the state found, root mean square over a sample,
            shape ``(B,)``; the iteration has converged where it is small.
        evaluations: Number of evaluations of the velocity.
    """

    x: Tensor
    residual: Tensor
    evaluations: int


def clamp_times(times: Tensor, low: float, high: float) -> Tensor:
    """Clamp a grid of times at both ends, where conversions of a prediction divide by small numbers.

    Args:
        times: Increasing times, shape ``(N,)``.
        low: Smallest time; 0 is noise.
        high: Largest time; 1 is data.

    Returns:
        Increasing times within ``[low, high]``, which are the first and the last.

    Raises:
        ConfigError: If they are not ``0 <= low < high <= 1``.
    """
    if not 0 <= low < high <= 1:
        raise ConfigError(f"the ends of the path must satisfy 0 <= low < high <= 1; got {low} and {high}")
    inner = times[(times > low) & (times < high)]
    return torch.cat([torch.tensor([low]), inner, torch.tensor([high])])


def invert(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    *,
    solver: str = "heun",
    iterations: int = 20,
    tolerance: float = 1e-5,
    on_step: OnStep | None = None,
) -> Inverted:
    """Find the state at the first time from which a solver reaches a given state at the last.

    Args:
        velocity: Field ``(x, t) -> v`` with shapes ``(B, *S)``, ``(B,)`` -> ``(B, *S)``.
        x: State at ``times[-1]``, shape ``(B, *S)``, float32 or wider.
        times: Increasing times, shape ``(num_steps + 1,)``, on the CPU.
        solver: One of the solvers without a history, all but ``multistep``
            and ``consistency``.
        iterations: Most fixed-point iterations of a step.
        tolerance: Error of a step, root mean square over a sample, at which its iteration ends.
        on_step: Called after each step back with (steps done, total steps, time reached, state).

    Returns:
        The start. A step that does not converge leaves the best state it found, and its error as the residual.

    Raises:
        ConfigError: If the solver is unknown or needs a history, or the times do not increase.
    """
    chosen = get_solver(solver)
    if chosen.renoises:
        raise ConfigError(f"the solver {solver} adds noise and has no inverse; use euler, heun or midpoint")
    if solver == "multistep":
        raise ConfigError("the multistep solver needs earlier steps and has no inverse; use euler, heun or midpoint")
    check_times(times)
    check_count("iterations", iterations)
    take, take_last = chosen.new_step(), chosen.last_step
    num_steps, evaluations = len(times) - 1, 0
    residual = torch.zeros(len(x), device=x.device)
    for i in reversed(range(num_steps)):
        is_last = take_last is not None and i == num_steps - 1
        step = take_last if is_last and take_last is not None else take
        x, error, tried = _step_back(step, velocity, x, times[i], times[i + 1], iterations, tolerance)
        evaluations += tried * (1 if is_last else chosen.evaluations)
        residual = torch.maximum(residual, error)
        if on_step is not None:
            on_step(num_steps - i, num_steps, float(times[i]), x)
    return Inverted(x, residual, evaluations)


def _step_back(
    step: Step, velocity: Velocity, x_next: Tensor, t: Tensor, t_next: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """Solve ``step(x) = x_next`` by ``x <- x + (x_next - step(x))``; return the best state, its error, and the tries.

    A step is ``x + dt psi(x)``, so this is the fixed point of ``x_next - dt psi(x)``, which contracts where the step is
    short against the field's changes.
    """
    x = best = x_next
    smallest = torch.full((len(x),), torch.inf, device=x.device)
    tries = 0
    while tries < iterations:
        tries += 1
        missing = x_next - step(velocity, x, t, t_next)
        error = missing.flatten(1).square().mean(1).sqrt().float()
        better = error < smallest
        best = torch.where(better.view(-1, *[1] * (x.dim() - 1)), x, best)
        smallest = torch.where(better, error, smallest)
        if bool((smallest < tolerance).all()):
            break
        x = x + missing
    return best, smallest, tries
