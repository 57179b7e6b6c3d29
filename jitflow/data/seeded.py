"""Data sets whose random transforms depend on the sample and the epoch, not on the worker process."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jitflow.core.seeding import mix_seeds
from jitflow.data.batch import ImageBatch, Sample
from jitflow.data.errors import SampleError

Key = tuple[int, int]
"""Epoch and index of a sample, as the sampler yields them."""


@runtime_checkable
class BatchReadable(Protocol):
    """Data set without random transforms that reads a whole batch at once."""

    def read_batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``(B, C, H, W)`` and labels ``(B,)`` at the indices ``(B,)``."""
        ...


@runtime_checkable
class SeededBatchReadable(Protocol):
    """Data set that reads a whole batch at once, with a seed for each sample's random transforms."""

    def read_seeded_batch(self, index: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the images ``(B, C, H, W)`` and labels ``(B,)`` at the indices ``(B,)``."""
        ...


@contextmanager
def seeded_randomness(seed: int) -> Iterator[None]:
    """Seed all random generators that a transform may use, and restore them afterwards.

    These are torch's (CPU only: seeding CUDA's would cost a synchronisation), Python's and numpy's.

    Args:
        seed: In ``[0, 2**63)``.
    """
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


class SeededDataset(Dataset[Sample]):
    """Data set of (image, label) whose random transforms are a function of (seed, epoch, index).

    Args:
        dataset: Any map-style data set of (image, label) pairs. One with ``read_batch`` or
            ``read_seeded_batch`` is read by whole batches.
        seed: Seed of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key | int) -> Sample:
        # Lightning's overfit_batches replaces the sampler with one that yields plain indices.
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with seeded_randomness(mix_seeds(self.seed, epoch, index)):
            sample = self.dataset[index]
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            found = f"{len(sample)} parts" if isinstance(sample, (tuple, list)) else type(sample).__name__
            raise SampleError(f"sample {index} of the data set must be (image, label); it is {found}")
        image, label = sample
        return image, int(label), index, epoch

    def __getitems__(self, keys: Sequence[Key | int]) -> list[Sample] | ImageBatch:
        """Read the samples of a batch; the loader prefers this to one call per sample."""
        dataset = self.dataset
        if not isinstance(dataset, (BatchReadable, SeededBatchReadable)):
            return [self[key] for key in keys]
        pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
        index = torch.tensor([i for _, i in pairs], dtype=torch.int64)
        if isinstance(dataset, SeededBatchReadable):
            images, labels = dataset.read_seeded_batch(index, [mix_seeds(self.seed, *pair) for pair in pairs])
        else:
            images, labels = dataset.read_batch(index)
        return ImageBatch(images, labels, index, pairs[0][0])
