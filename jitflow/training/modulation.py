"""What a sampling needs to tell its network about time and class, computed once for each pair of them."""

from __future__ import annotations

import inspect
from typing import TypeGuard

import torch
from torch import Tensor, nn

from jitflow.layers.transformer import AdaLNTransformer

# Rows for many times at once are one large matrix product instead of many small ones; more than this gains nothing.
_BLOCK_BYTES = 64 * 2**20


def takes_modulation(net: nn.Module) -> TypeGuard[AdaLNTransformer]:
    """Whether a network's ``forward`` accepts what its own ``modulation`` computes."""
    return isinstance(net, AdaLNTransformer) and "modulation" in inspect.signature(net.forward).parameters


class ModulationTable:
    """Modulations of all steps of one sampling, a row for each (time, label).

    Times are computed in blocks, in the order of the grid, so that memory stays within 64 MiB (or one time's rows)
    however many steps and labels there are. Labels that repeat share a row.

    Args:
        net: The network, with the weights that it samples with.
        labels: Every label that will be asked for, any shape, int64.
        times: The times that will be asked for, increasing, shape ``(T,)``, on the CPU; another one is
            computed when asked for, and not kept.
        block_bytes: Most memory of a block of more than one time.
    """

    def __init__(
        self, net: AdaLNTransformer, labels: Tensor, times: Tensor, *, block_bytes: int = _BLOCK_BYTES
    ) -> None:
        self._net = net
        self._labels = labels.unique()
        self._times = times.tolist()
        self._block_bytes = block_bytes
        self._block: dict[float, Tensor] = {}

    def rows(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the modulation of samples that are all at one time.

        Args:
            t: Time, shape ``(B,)``, the same for all samples, on the CPU.
            y: Label of each sample, shape ``(B,)``, each among the table's.

        Returns:
            Values, shape ``(B, M)``, in the precision that the network computes them in.
        """
        time = float(t[0])
        if time in self._times and time not in self._block:
            self._block = self._block_from(time)
        of_time = self._block[time] if time in self._block else self._compute([time])[0]
        return of_time[torch.searchsorted(self._labels, y)]

    def _block_from(self, time: float) -> dict[float, Tensor]:
        """Rows of a time and of as many of the grid's next ones as fit."""
        first = self._compute([time])
        fit = self._block_bytes // first.nbytes - 1
        later = [other for other in self._times if other > time][: max(0, fit)]
        rows = [first[0], *(self._compute(later) if later else ())]
        return dict(zip([time, *later], rows, strict=True))

    def _compute(self, times: list[float]) -> Tensor:
        """Modulations, shape ``(times, labels, M)``."""
        labels = self._labels.repeat(len(times))
        t = torch.tensor(times, dtype=torch.float32).repeat_interleave(len(self._labels)).to(labels.device)
        return self._net.modulation(t, labels).unflatten(0, (len(times), -1))
