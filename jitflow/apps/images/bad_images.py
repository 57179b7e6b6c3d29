"""Images that cannot be read during training: counted, named, replaced by others, and never more than a set share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from jitflow.core.seeding import mix_seeds
from jitflow.data.errors import SampleError
from jitflow.errors import ConfigError

log = logging.getLogger(__name__)

# Tells these draws from others of the same numbers.
_STREAM = 0xBAD
# Replacements that are tried for one image; with an allowed share of a few per cent the third is never reached.
_MOST_TRIES = 50


class BadImages:
    """Which images of a data set could not be read, in memory that all loader processes share.

    What takes the place of an image depends on the image alone, so that a resumed run reads the same.

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
        """How many images could not be read so far."""
        return int(self._marked.count_nonzero())

    def indices(self) -> list[int]:
        """Places of these images in the data set, ascending."""
        return self._marked.nonzero().flatten().tolist()

    def add(self, index: int, error: SampleError) -> None:
        """Note that an image could not be read, and warn the first time.

        Args:
            index: Its place in the data set.
            error: Names it and says why.

        Raises:
            DataError: If more than the allowed share cannot be read.
        """
        is_new = not self._marked[index]
        self._marked[index] = 1
        count, allowed = self.count, int(self.max_share * self.num_images)
        if count > allowed:
            raise SampleError(
                f"{count} of {self.num_images} {self.what} images cannot be read, and max_bad_share="
                f"{self.max_share:g} allows {allowed}; the last: {error}"
            )
        if is_new:
            log.warning("%s; another image takes its place (%d of %d allowed)", error, count, allowed)

    def replacements(self, index: int) -> Iterator[int]:
        """Yield the images to try in place of one, always the same for it."""
        for attempt in range(_MOST_TRIES):
            yield mix_seeds(_STREAM, index, attempt) % self.num_images


def check_share(max_share: float) -> None:
    """Raise ConfigError if a share of bad images is out of range."""
    if not 0 <= max_share < 1:
        raise ConfigError(f"max_bad_share must lie in [0, 1); got {max_share}")
