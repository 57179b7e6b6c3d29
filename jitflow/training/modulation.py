"""Table of adaLN modulations for sampling, computed once for each time and label."""

from __future__ import annotations

import inspect
from typing import TypeGuard

import torch
from torch import Tensor, nn

from jitflow.layers.transformer import AdaLNTransformer

# One large matrix product for many times is faster than many small ones, up to about this size.
_BLOCK_BYTES = 64 * 2**20


def takes_modulation(net: nn.Module) -> TypeGuard[AdaLNTransformer]:
    """Whether a network's ``forward`` accepts precomputed modulation."""
    return isinstance(net, AdaLNTransformer) and "modulation" in inspect.signature(net.forward).parameters


class ModulationTable:
    """Modulations of all steps of one sampling call, a row for each (time, label).

    Times are computed in blocks, in the order of the grid, so that memory stays within 64 MiB (or one time's rows)
    however many steps and labels there are. Labels that repeat share a row.

    Args:
        net: The network, with the weights that it samples with.
        labels: All labels of the call, shape ``(B,)``, int64, or with conditions ``(B, 1 + K)``, float32.
        times: All expected times, increasing, shape ``(T,)``, on the CPU; other times are computed on demand and
            not stored.
        block_bytes: Memory limit of a block of several times.
    """

    def __init__(
        self, net: AdaLNTransformer, labels: Tensor, times: Tensor, *, block_bytes: int = _BLOCK_BYTES
    ) -> None:
        self._net = net
        self._labels = labels.unique(dim=0)
        self._times = times.tolist()
        self._block_bytes = block_bytes
        self._block: dict[float, Tensor] = {}

    def at(self, t: Tensor) -> Tensor:
        """Return the modulations of all labels at a time.

        Args:
            t: Time, shape ``(B,)``, the same for all samples, on the CPU.

        Returns:
            Values, shape ``(labels, M)``, in the network's precision.
        """
        time = float(t[0])
        if time in self._times and time not in self._block:
            self._block = self._block_from(time)
        return self._block[time] if time in self._block else self._compute([time])[0]

    def of_samples(self, modulations: Tensor, y: Tensor) -> Tensor:
        """Return the modulation of each sample of a batch.

        Args:
            modulations: Those of all labels at the samples' time, from :meth:`at`.
            y: Label of each sample, shape ``(B,)`` or ``(B, 1 + K)``, each among the table's.

        Returns:
            Values, shape ``(B, M)``.
        """
        return modulations[self._rows_of(y)]

    def _rows_of(self, y: Tensor) -> Tensor:
        """Find the row of each label, shape ``(B,)``."""
        if y.dim() == 1:
            return torch.searchsorted(self._labels, y)
        return (y[:, None] == self._labels).all(dim=-1).int().argmax(dim=1)

    def _block_from(self, time: float) -> dict[float, Tensor]:
        """Compute the rows of a time and of as many following times as fit into a block."""
        first = self._compute([time])
        fit = self._block_bytes // first.nbytes - 1
        later = [other for other in self._times if other > time][: max(0, fit)]
        rows = [first[0], *(self._compute(later) if later else ())]
        return dict(zip([time, *later], rows, strict=True))

    def _compute(self, times: list[float]) -> Tensor:
        """Compute modulations, shape ``(times, labels, M)``."""
        labels = self._labels.repeat(len(times), *[1] * (self._labels.dim() - 1))
        t = torch.tensor(times, dtype=torch.float32).repeat_interleave(len(self._labels)).to(labels.device)
        return self._net.modulation(t, labels).unflatten(0, (len(times), -1))
