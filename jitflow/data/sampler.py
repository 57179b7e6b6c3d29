"""Resumable distributed sampler whose order is a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from jitflow.core.seeding import mix_seeds
from jitflow.errors import ConfigError


class ResumableSampler(DistributedSampler[tuple[int, int]]):
    """Sampler that gives each process its share of every epoch, as (epoch, index) keys.

    Step ``b`` of all processes together reads one contiguous piece of the epoch's permutation, so that the
    samples of a step depend on the global batch size alone and not on how many processes share it.

    It derives from torch's ``DistributedSampler`` because Lightning replaces any other sampler in a distributed run.

    Args:
        num_samples: Size of the data set.
        num_replicas: Number of processes that share an epoch.
        rank: Rank of this process, in ``[0, num_replicas)``.
        shuffle: Whether to permute; the identity otherwise.
        seed: Seed of the permutations.
        drop_last: True drops the tail that would give processes unequal counts; False pads it with the first samples.
            Either way all processes get the same number.
        batch_size: Samples per batch and process, the unit of :meth:`skip`.
        balance: Label of each sample, shape ``(num_samples,)``, int64, to give every class the same share of
            an epoch; None reads every sample once.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = True,
        batch_size: int = 1,
        balance: Tensor | None = None,
    ) -> None:
        if not 0 <= rank < num_replicas:
            raise ConfigError(f"rank must lie in [0, num_replicas={num_replicas}); got {rank}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}")
        super().__init__(range(num_samples), num_replicas, rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.dataset_size = num_samples
        self.num_samples = num_samples // num_replicas if drop_last else -(-num_samples // num_replicas)
        self.total_size = self.num_samples * num_replicas
        self.batch_size = batch_size
        self.num_skipped_batches = 0
        self._members = None if balance is None else _members_by_class(balance)

    def __len__(self) -> int:
        # The whole epoch even after skip(): Lightning takes the length of an epoch from here and counts
        # the batches done before the resume too.
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._order()
        if not self.drop_last and len(order):
            order = order.repeat(-(-self.total_size // len(order)))[: self.total_size]
        share = order[self.rank : self.total_size : self.num_replicas]
        epoch = self.epoch
        return ((epoch, index) for index in share[self.num_skipped_batches * self.batch_size :].tolist())

    @property
    def is_balanced(self) -> bool:
        """Whether every class gets the same share."""
        return self._members is not None

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.dataset_size)
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        if self._members is not None:
            return balanced_order(self._members, self.dataset_size, generator)
        return torch.randperm(self.dataset_size, generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the permutation; a new epoch resets :meth:`skip`.

        Args:
            epoch: Counted from 0. Lightning calls this at the start of every epoch.
        """
        if epoch != self.epoch:
            self.num_skipped_batches = 0
        self.epoch = epoch

    def skip(self, num_batches: int) -> None:
        """Skip the first batches of the current epoch only.

        Args:
            num_batches: Number of batches that this process has already read.
        """
        self.num_skipped_batches = num_batches


def balanced_order(members: Sequence[Tensor], num_samples: int, generator: torch.Generator) -> Tensor:
    """Draw the order of a class-balanced epoch, in which the counts of any two classes differ by at most one.

    A class with fewer samples than its share repeats all of them equally often, up to one; a larger class gives a
    random subset, a new one in every epoch.

    Args:
        members: Indices of the samples of each class, each shape ``(n,)``, int64; none is empty.
        num_samples: Length of the epoch.
        generator: Generator of all random numbers.

    Returns:
        Indices in random order, shape ``(num_samples,)``, int64.
    """
    share, rest = divmod(num_samples, len(members))
    favoured = set(torch.randperm(len(members), generator=generator)[:rest].tolist())
    drawn = []
    for label, samples in enumerate(members):
        wanted = share + (label in favoured)
        rounds = -(-wanted // len(samples))
        order = [torch.randperm(len(samples), generator=generator) for _ in range(rounds)]
        drawn.append(samples[torch.cat([torch.empty(0, dtype=torch.int64), *order])[:wanted]])
    together = torch.cat(drawn)
    return together[torch.randperm(num_samples, generator=generator)]


def _members_by_class(labels: Tensor) -> list[Tensor]:
    """Sample indices of each class that has any."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    return list(order.split(counts[counts > 0].tolist()))


class FixedOrderSampler(ResumableSampler):
    """Validation sampler: the same order in every epoch, without shuffling, covering every sample.

    Args:
        num_samples: Size of the data set.
        num_replicas: Number of processes that share it; up to ``num_replicas - 1`` first samples are read twice.
        rank: Rank of this process.
    """

    def __init__(self, num_samples: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(num_samples, num_replicas=num_replicas, rank=rank, shuffle=False, drop_last=False)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: random validation transforms must be the same in every epoch."""
