"""Data sets for transport: each image of one set with a random image of another, from which its path begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitflow.core.seeding import mix_seeds
from jitflow.data.batch import ImageBatch, collate
from jitflow.data.errors import SampleError
from jitflow.data.seeded import Key, SeededDataset

# Name of the random stream that chooses the source images.
_STREAM_SOURCE = 7


class PairedDataset(SeededDataset):
    """Data set of (image, label) whose batches also hold a random image of another set for each sample.

    Which one is a function of (seed, epoch, index), as are both images' random transforms.

    Args:
        dataset: Data set of (image, label), as :class:`~jitflow.data.seeded.SeededDataset` takes it.
        source: Such a data set of the other images; its labels are not used.
        seed: Seed of the run.
    """

    def __init__(self, dataset: Any, source: Any, seed: int) -> None:
        super().__init__(dataset, seed)
        self.source = SeededDataset(source, mix_seeds(_STREAM_SOURCE, seed))

    def __getitems__(self, keys: Sequence[Key | int]) -> ImageBatch:
        """Read the samples of a batch, with their source images."""
        batch = collate(super().__getitems__(keys))
        pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
        num = len(self.source)
        chosen = [(epoch, mix_seeds(_STREAM_SOURCE, self.seed, epoch, i) % num) for epoch, i in pairs]
        batch.source = collate(self.source.__getitems__(chosen)).images
        if batch.source.shape != batch.images.shape:
            raise SampleError(
                f"the source images have shape {tuple(batch.source.shape[1:])} and the data "
                f"{tuple(batch.images.shape[1:])}; read both with the same img_size and channels"
            )
        return batch
