"""Moments of the features of a generated population, kept as averages over training steps and over processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jitflow.posttraining.frechet import Moments


class Sums:
    """Sums of features ``f`` and of ``f f^T`` in several feature spaces, added up in float64.

    Args:
        dims: Number of features of each space.
        device: Device of the sums.
    """

    def __init__(self, dims: Sequence[int], device: torch.device) -> None:
        # Rounding of single precision would grow over the many samples.
        self._count = torch.zeros(1).double().to(device)
        self._first = [torch.zeros(dim).double().to(device) for dim in dims]
        self._second = [torch.zeros(dim, dim).double().to(device) for dim in dims]

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self._count)

    def add(self, features: Sequence[Tensor]) -> None:
        """Add the features of a micro-batch, each ``(B, D)``; no gradient is kept."""
        self._count += len(features[0])
        for first, second, given in zip(self._first, self._second, features, strict=True):
            f = given.detach().double()
            first += f.sum(dim=0)
            second += f.T @ f

    def all_reduce(self) -> None:
        """Add up the sums of all processes; a collective call."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for tensor in (self._count, *self._first, *self._second):
                torch.distributed.all_reduce(tensor)

    def moments(self) -> list[Moments]:
        """Return the moments in each feature space."""
        pairs = zip(self._first, self._second, strict=True)
        return [Moments(first / self._count, second / self._count) for first, second in pairs]


class Population(nn.Module):
    """Running moments of what a model generates with one number of steps, in several feature spaces.

    They are buffers, so that checkpoints keep them.

    Args:
        dims: Number of features of each space.
        decay: Weight ``b`` of the earlier moments in each update, in ``[0, 1)``.
    """

    is_filled: Tensor

    def __init__(self, dims: Sequence[int], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._num_spaces = len(dims)
        self.register_buffer("is_filled", torch.zeros((), dtype=torch.bool))
        for place, dim in enumerate(dims):
            self.register_buffer(f"mean{place}", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"second{place}", torch.zeros(dim, dim, dtype=torch.float64))

    def moments(self) -> list[Moments]:
        """Return the present moments in each feature space."""
        return [
            Moments(self.get_buffer(f"mean{place}"), self.get_buffer(f"second{place}"))
            for place in range(self._num_spaces)
        ]

    def share_of_new(self) -> float:
        """Return the weight of a batch in the updated moments: ``1 - b``, or 1 before there are any."""
        return 1 - self.decay if bool(self.is_filled) else 1.0

    def updated(self, batch: Sequence[Moments]) -> list[Moments]:
        """Return the moments after a batch; they are not stored.

        Args:
            batch: Moments of the batch in each feature space.
        """
        new = self.share_of_new()
        return [
            Moments(*(torch.lerp(old, fresh, new) for old, fresh in zip(kept, given, strict=True)))
            for kept, given in zip(self.moments(), batch, strict=True)
        ]

    def store(self, moments: Sequence[Moments]) -> None:
        """Store moments in each feature space."""
        for kept, given in zip(self.moments(), moments, strict=True):
            kept.mean.copy_(given.mean)
            kept.second.copy_(given.second)
        self.is_filled.fill_(True)
