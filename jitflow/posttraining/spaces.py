"""Feature spaces of a post-training: extractors with the real images' statistics under each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from jitflow.evaluation.extractors import make_extractor, split_extractors
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.reference import load_references
from jitflow.host import full_float32
from jitflow.posttraining.frechet import FrechetTarget


@dataclass(frozen=True)
class FeatureSpace:
    """A feature space in which generated images are compared with real ones.

    Attributes:
        name: Short name, for logs.
        extractor: The feature extractor.
        target: Distance to the real images.
    """

    name: str
    extractor: FeatureExtractor
    target: FrechetTarget

    def to(self, device: torch.device) -> None:
        """Move extractor and reference to a device, in place."""
        self.extractor.to(device)
        self.target.to(device)

    def features(self, pixels: Tensor) -> Tensor:
        """Extract features ``(B, D)``, float32, of grey levels ``(B, C, H, W)`` in ``[0, 255]``, with gradients."""
        with full_float32():
            return self.extractor.features(pixels).float()


# A training builds its module several times, on no device at first, and a large encoder takes seconds to read.
@lru_cache(maxsize=2)
def load_spaces(extractors: str, reference: str, shape: tuple[int, int, int]) -> tuple[FeatureSpace, ...]:
    """Load extractors and the statistics of real images under them.

    Args:
        extractors: Names of extractors, separated by commas, see
            :func:`jitflow.evaluation.extractors.make_extractor`.
        reference: Real images or their statistics, see :func:`jitflow.evaluation.reference.load_references`.
        shape: Channels, height and width of the images.

    Returns:
        The spaces, on the CPU.

    Raises:
        ConfigError: If an extractor is unknown, or the statistics are of another one.
        MissingFileError: If weights or statistics are missing.
    """
    channels, *sides = shape
    size: dict[str, Any] = {"img_size": tuple(sides), "channels": channels}
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        made = {name: make_extractor(spec) for name, spec in split_extractors(extractors).items()}
        found = load_references(reference, made, **size)
        return tuple(
            FeatureSpace(name, extractor, FrechetTarget(found[name].statistics)) for name, extractor in made.items()
        )
