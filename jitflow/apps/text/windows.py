"""Windows of equal length over a token stream: the samples of an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jitflow.apps.text.token_store import TokenStream
from jitflow.core.seeding import mix_seeds
from jitflow.data.batch import ImageBatch, Sample
from jitflow.data.seeded import Key


class Windows(ABC, Dataset[tuple[Tensor, int]]):
    """Windows of tokens that can shift between epochs; also a data set of (ids, label) without shift.

    Args:
        stream: The tokens.
        num_tokens: Length of a window.
        pad_id: Id of the padding at the end of a window.
        random_offset: Whether :meth:`read_epoch` shifts the windows.
    """

    def __init__(self, stream: TokenStream, num_tokens: int, pad_id: int, *, random_offset: bool = False) -> None:
        self.classes = ["text"]
        self.stream = stream
        self.num_tokens = num_tokens
        self.pad_id = pad_id
        self.random_offset = random_offset

    def read_epoch(self, index: Tensor, seed: int, epoch: int) -> Tensor:
        """Return the windows ``(B, num_tokens)`` at the indices ``(B,)``, int64, a function of (seed, epoch, index)."""
        return self._read(index, (seed, epoch) if self.random_offset else None)

    def read_batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unshifted windows ``(B, num_tokens)`` and zeros ``(B,)``, int64."""
        return self._read(index, None), torch.zeros(len(index), dtype=torch.int64)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._read(torch.tensor([index]), None)[0], 0

    def _read(self, index: Tensor, shift: tuple[int, int] | None) -> Tensor:
        windows = np.full((len(index), self.num_tokens), self.pad_id, np.int64)
        for window, i in zip(windows, index.tolist(), strict=True):
            self._fill(window, i, shift)
        return torch.from_numpy(windows)

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def num_padding(self) -> int:
        """Number of padding tokens in an epoch."""

    @abstractmethod
    def _fill(self, window: np.ndarray, index: int, shift: tuple[int, int] | None) -> None:
        """Write the tokens of a window over its padding; ``shift`` is (seed, epoch) or None."""


class PackedWindows(Windows):
    """Windows over all documents concatenated, with hardly any padding.

    With a random offset the stream is a ring that each epoch enters at another position: every token is seen once per
    epoch (less than one window of them twice), and no window is padded. A stream shorter than a window is not shifted.
    """

    def __len__(self) -> int:
        return -(-self.stream.num_tokens // self.num_tokens)

    @property
    def num_padding(self) -> int:
        """Number of padding tokens in an epoch."""
        if self.random_offset and self.stream.num_tokens >= self.num_tokens:
            return 0
        return len(self) * self.num_tokens - self.stream.num_tokens

    def _fill(self, window: np.ndarray, index: int, shift: tuple[int, int] | None) -> None:
        ids, total = self.stream.ids, self.stream.num_tokens
        if shift is None or total < self.num_tokens:
            found = ids[index * self.num_tokens : (index + 1) * self.num_tokens]
            window[: len(found)] = found
            return
        start = (index * self.num_tokens + mix_seeds(*shift) % total) % total
        found = ids[start : start + self.num_tokens]
        window[: len(found)] = found
        window[len(found) :] = ids[: self.num_tokens - len(found)]


class DocumentWindows(Windows):
    """Windows over each document separately, the last one padded.

    With a random offset the window boundaries inside a document shift from epoch to epoch, within the padding of its
    last window: every token is seen once per epoch.
    """

    def __init__(self, stream: TokenStream, num_tokens: int, pad_id: int, *, random_offset: bool = False) -> None:
        super().__init__(stream, num_tokens, pad_id, random_offset=random_offset)
        lengths = np.diff(stream.ends, prepend=0)
        self._last = np.cumsum(-(-lengths // num_tokens))
        self.num_split = int((lengths > num_tokens).sum())

    def __len__(self) -> int:
        return int(self._last[-1]) if len(self._last) else 0

    @property
    def num_padding(self) -> int:
        """Number of padding tokens in an epoch."""
        return len(self) * self.num_tokens - self.stream.num_tokens

    def _fill(self, window: np.ndarray, index: int, shift: tuple[int, int] | None) -> None:
        document = int(np.searchsorted(self._last, index, side="right"))
        first_window = int(self._last[document - 1]) if document else 0
        start = int(self.stream.ends[document - 1]) if document else 0
        end = int(self.stream.ends[document])
        size = self.num_tokens
        slack = (int(self._last[document]) - first_window) * size - (end - start)
        offset = 0 if shift is None else mix_seeds(*shift, document) % (slack + 1)
        position = start + (index - first_window) * size - offset
        found = self.stream.ids[max(start, position) : min(end, position + size)]
        window[: len(found)] = found


class EpochWindows(Dataset[Sample]):
    """Data set of windows that depend on the epoch, which the sampler yields with each index.

    Args:
        windows: The windows.
        seed: Seed of the run.
    """

    def __init__(self, windows: Windows, seed: int) -> None:
        self.windows = windows
        self.seed = seed

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key: Key | int) -> Sample:
        batch = self.__getitems__([key])
        return batch.images[0], 0, int(batch.index[0]), batch.epoch

    def __getitems__(self, keys: Sequence[Key | int]) -> ImageBatch:
        """Read the windows of a batch."""
        # Lightning's overfit_batches replaces the sampler with one that yields plain indices.
        pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
        index, epoch = torch.tensor([i for _, i in pairs], dtype=torch.int64), pairs[0][0]
        ids = self.windows.read_epoch(index, self.seed, epoch)
        return ImageBatch(ids, torch.zeros(len(pairs), dtype=torch.int64), index, epoch)
