"""Mean and standard deviation of each latent channel, computed without reading all latents into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from jitflow.errors import DataError
from jitflow.io.files import atomic_path

_BLOCK_ROWS = 256


class Rows(Protocol):
    """Latents that can be sliced by rows: an array, a memory-mapped file, or shards."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(N, Z, h, w)``."""

    @property
    def size(self) -> int:
        """Number of elements."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


def channel_statistics(latents: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and standard deviation of each channel, block by block.

    Args:
        latents: Shape ``(N, Z, h, w)``, possibly mapped from a file.

    Returns:
        Mean and deviation (divisor count - 1, as the release has it), shape ``(Z,)``, float64.

    Raises:
        DataError: If a channel does not vary.
    """
    count = latents.size // latents.shape[1]
    blocks = range(0, len(latents), _BLOCK_ROWS)
    total = sum(latents[i : i + _BLOCK_ROWS].sum(axis=(0, 2, 3), dtype=np.float64) for i in blocks)
    mean = np.asarray(total / count)
    centre = mean[:, None, None]
    squares = sum(np.square(latents[i : i + _BLOCK_ROWS] - centre).sum(axis=(0, 2, 3)) for i in blocks)
    std = np.sqrt(np.asarray(squares) / max(1, count - 1))
    if not (std > 0).all():
        raise DataError(f"latent channel {int(np.argmin(std))} is the same in all training images; are they all alike?")
    return mean, std


def save_statistics(path: Path, mean: np.ndarray, std: np.ndarray) -> None:
    """Write the statistics as the LightningDiT release has them: ``mean`` and ``std``, shape ``(1, Z, 1, 1)``.

    Args:
        path: The ``.pt`` file.
        mean: Mean of each channel, shape ``(Z,)``.
        std: Standard deviation of each channel, shape ``(Z,)``.
    """
    statistics = {
        name: torch.from_numpy(values).float().reshape(1, -1, 1, 1) for name, values in (("mean", mean), ("std", std))
    }
    # torch.save writes the name of a file into it, and that of the temporary file is random: a stream has none.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(statistics, file)
