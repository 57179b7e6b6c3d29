"""Skip unreadable images during training: count and report them, replace them, and limit their share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from jitflow.core.seeding import mix_seeds
from jitflow.data.errors import SampleError
from jitflow.errors import ConfigError

log = logging.getLogger(__name__)

# Separates these random numbers from others with the same seeds.
_STREAM = 0xBAD
# Replacements tried for one image; with an allowed share of a few per cent, more than two are hardly ever needed.
_MAX_TRIES = 50


class BadImages:
    """Record of a data set's unreadable images, in memory shared by all loader processes.

    The replacement of an image depends on the image alone, so that a resumed run reads the same.

    Args:
        num_images: Size of the data set.
        max_share: Largest share of it that may be unreadable, in [0, 1).
        what: What the images are, for messages, such as ``training``.

    Raises:
        ConfigError: If the share is out of range.
    """

    def __init__(self, num_images: int, max_share: float, what: str) -> None:
        check_share(max_share)
        self.num_images = num_images
        self.max_share = max_share
        self.what = what
        self._marked = torch.zeros(num_images, dtype=torch.uint8).share_memory_()

    @property
    def count(self) -> int:
        """Number of unreadable images so far."""
        return int(self._marked.count_nonzero())

    def indices(self) -> list[int]:
        """Indices of the unreadable images, ascending."""
        return self._marked.nonzero().flatten().tolist()

    def add(self, index: int, error: SampleError) -> None:
        """Record an unreadable image, and warn the first time.

        Args:
            index: Its index in the data set.
            error: The error, which names the image and the reason.

        Raises:
            DataError: If more than the allowed share cannot be read.
        """
        is_new = not self._marked[index]
        self._marked[index] = 1
        count, allowed = self.count, int(self.max_share * self.num_images)
        if count > allowed:
            raise SampleError(
                f"{count} of {self.num_images} {self.what} images cannot be read, and max_bad_share="
                f"{self.max_share:g} allows {allowed}; raise max_bad_share, or list all of them with "
                f"`jitflow data check`; the last: {error}"
            )
        if is_new:
            log.warning("%s; another image takes its place (%d of %d allowed)", error, count, allowed)

    def replacements(self, index: int) -> Iterator[int]:
        """Yield the indices of replacements for an image, always the same ones."""
        for attempt in range(_MAX_TRIES):
            yield mix_seeds(_STREAM, index, attempt) % self.num_images


def check_share(max_share: float) -> None:
    """Raise ConfigError if a share of bad images is out of range."""
    if not 0 <= max_share < 1:
        raise ConfigError(f"max_bad_share must lie in [0, 1); got {max_share}")
