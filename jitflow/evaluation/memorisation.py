"""Memorisation: which samples are copies of training data, by their distances to it; the same for every application.

A distance says nothing by itself, so it is compared with one of two others:

- **Held-out data** (:func:`copies_by_held_out`): a sample is a copy if it is nearer to the training data than 99 % of
  the held-out data are. Of a model that generalises about 1 % are, by construction. It holds for any notion of
  distance, and for training data with duplicates. The idea of Meehan et al. 2020, arXiv:2004.05675.
- **The second nearest training sample** (:func:`copies_by_ratio`), where no held-out data are given: a copy is
  less than a third as far from its nearest training sample as from the next. Yoon et al. 2023 ("Diffusion
  probabilistic models generalize when they fail to memorize"), Gu et al. 2023, arXiv:2310.02664. By chance that
  happens to a share ``3 ** -d`` of samples whose data vary in d directions: 0.4 % for 5, 0.002 % for 10. A copy of a
  training sample that is there twice is only found if it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jitflow import pictures
from jitflow.errors import ConfigError
from jitflow.evaluation.intervals import Interval, share
from jitflow.evaluation.nearest import Neighbours

RATIO = 1 / 3
"""Distance to the nearest over distance to the second nearest training sample, below which a sample is a copy."""
QUANTILE = 0.01
"""Share of held-out data that are as near to the training data as a copy."""
NUM_PAIRS = 10
"""Pairs of a sample and its nearest training sample that are shown, nearest first."""


@dataclass(frozen=True)
class Copies:
    """Which samples are copies of training data.

    Attributes:
        is_copy: Whether each sample is one, shape ``(N,)``.
        nearness: Number by which it was decided, shape ``(N,)``: a distance or a ratio of distances; copies are below
            ``threshold``.
        threshold: Its limit.
        rule: The rule in words, for reports.
    """

    is_copy: Tensor
    nearness: Tensor
    threshold: float
    rule: str

    @property
    def share(self) -> float:
        """Share of the samples that are copies, in ``[0, 1]``."""
        return float(self.is_copy.double().mean())

    @property
    def interval(self) -> Interval | None:
        """Confidence interval of the share; None for a single sample."""
        return share(self.is_copy) if len(self.is_copy) > 1 else None

    def nearest(self, num: int = NUM_PAIRS) -> list[int]:
        """List the samples nearest to the training data, nearest first.

        Args:
            num: How many, at most.
        """
        return self.nearness.argsort(stable=True)[:num].tolist()


def copies_by_held_out(distances: Tensor, held_out: Tensor) -> Copies:
    """Find samples that are nearer to the training data than 99 % of the held-out data are.

    With fewer than 100 held-out samples the limit is close to the nearest of them.

    Args:
        distances: Distance of each sample to the training data, shape ``(N,)``; any number that falls with nearness.
        held_out: The same of held-out data, shape ``(M,)``.

    Returns:
        The copies; of held-out data themselves at most about 1 % would be.

    Raises:
        ConfigError: If there are no held-out data.
    """
    if not held_out.numel():
        raise ConfigError("there are no held-out data, whose distances to the training data are the measure of copies")
    threshold = float(torch.quantile(held_out.double(), QUANTILE))
    rule = f"nearer to the training data than {1 - QUANTILE:.0%} of the held-out data"
    return Copies(distances < threshold, distances, threshold, rule)


def copies_by_ratio(neighbours: Neighbours) -> Copies:
    """Find samples less than a third as far from their nearest training sample as from the second nearest.

    Args:
        neighbours: The nearest two training samples.

    Returns:
        The copies; a sample that equals a training sample is always one, and no other is where there is no second.
    """
    nearest, second = neighbours.distances.unbind(dim=1)
    ratios = torch.where(nearest == 0, 0.0, torch.where(second.isinf(), 1.0, nearest / second))
    return Copies(ratios < RATIO, ratios, RATIO, "less than a third as far from the nearest as from the second nearest")


def draw_pairs(path: str | Path, samples: Tensor, train: Tensor, captions: Sequence[str]) -> None:
    """Draw samples above their nearest training images.

    Args:
        path: The PNG to write.
        samples: Generated images, shape ``(P, C, H, W)``, uint8.
        train: The training images, of the same shape.
        captions: Caption of each pair, such as its distance.
    """
    if samples.shape != train.shape:
        raise ConfigError(f"pairs must have equal shapes; got {tuple(samples.shape)} and {tuple(train.shape)}")
    image = pictures.grid(
        torch.cat([samples, train]).numpy(),
        columns=len(samples),
        scale=pictures.display_scale(samples.shape[-1], target_px=96),
        captions=[*captions, *["training image"] * len(train)],
    )
    pictures.save_image(image, path)
