"""CUDA graphs of sampling: an evaluation of the velocity is recorded once, and then launched as a whole.

An evaluation is some hundred kernels. Where a CPU takes longer to launch them than a GPU to compute them, the GPU
waits; a graph launches them together, with guidance, modulation and conversion. It needs no compiler. Everything that
changes between evaluations is copied to fixed addresses, everything else is recorded as it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Result: TypeAlias = "tuple[Tensor, Tensor | None]"
Evaluate: TypeAlias = "Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Result]"
Record: TypeAlias = "Callable[[Callable[[], Result]], tuple[Callable[[], None], Result]]"
"""Records a function of tensors at fixed addresses; returns the function that repeats it, and where its results are."""

# Of the evaluations of one kind, the first runs as ever and the second is recorded, so the third is the first to gain.
FEWEST_EVALUATIONS = 6
_one_at_a_time = threading.Lock()


def record_cuda_graph(run: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
    """Record the kernels of a function as a CUDA graph; nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    # Threads that load data, or launch kernels, go on with the device meanwhile; torch records for one at a time.
    with _one_at_a_time, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, result


class EvaluationGraphs:
    """The graphs of one sampling call: one for evaluations in which guidance acts, one for the others.

    Args:
        record: Function that records a graph.
    """

    def __init__(self, record: Record = record_cuda_graph) -> None:
        self._record = record
        self._has_run: set[bool] = set()
        self._graphs: dict[bool, _Graph | None] = {}

    def __call__(
        self,
        acts: bool,
        evaluate: Evaluate,
        x: Tensor,
        t: Tensor,
        modulations: Tensor | None,
        hint: Tensor | None,
    ) -> Result:
        """Evaluate the velocity; arguments and results as of :meth:`GuidedVelocity._evaluate_field`.

        Args:
            acts: Whether guidance acts, which decides on the kernels.
            evaluate: The evaluation; it must read nothing but its arguments and what stays the same during the call.
            x: State, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``, the same for all samples, on the CPU.
            modulations: Modulations at this time.
            hint: Estimate of the data.
        """
        if acts not in self._has_run:
            # This builds kernels, and converts the weights to the precision of autocast, which keeps them.
            self._has_run.add(acts)
            return evaluate(x, t.to(x.device), modulations, hint)
        if acts not in self._graphs:
            self._graphs[acts] = self._new_graph(evaluate, x, modulations, hint)
        graph = self._graphs[acts]
        if graph is None:
            return evaluate(x, t.to(x.device), modulations, hint)
        return graph(x, float(t[0]), modulations, hint)

    def _new_graph(
        self, evaluate: Evaluate, x: Tensor, modulations: Tensor | None, hint: Tensor | None
    ) -> _Graph | None:
        """Record a graph; None, with a warning, for a network that does what a graph cannot hold."""
        try:
            return _Graph(self._record, evaluate, x, modulations, hint)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            log.warning(f"sampling launches its kernels one by one, since no CUDA graph can hold them here ({why})")
            return None


class _Graph:
    def __init__(
        self, record: Record, evaluate: Evaluate, x: Tensor, modulations: Tensor | None, hint: Tensor | None
    ) -> None:
        self._x, self._t = x.clone(), x.new_zeros(len(x))
        self._modulations, self._hint = (None if part is None else part.clone() for part in (modulations, hint))
        self._repeat, self._result = record(lambda: evaluate(self._x, self._t, self._modulations, self._hint))

    def __call__(self, x: Tensor, t: float, modulations: Tensor | None, hint: Tensor | None) -> Result:
        self._x.copy_(x)
        self._t.fill_(t)
        for place, value in (self._modulations, modulations), (self._hint, hint):
            if place is not None and value is not None:
                place.copy_(value)
        self._repeat()
        v, hint = self._result
        # A solver still needs them when the next evaluation writes to the same addresses.
        return v.clone(), None if hint is None else hint.clone()
