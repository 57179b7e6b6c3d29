"""Plan of the study: which classifiers are trained on what, as a list of cells that can be done in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jitflow.core.seeding import mix_seeds
from jitflow.errors import DataError

Source = Literal["real", "generated", "simulated"]
ALL = "all"
"""Name of the subset of all training samples."""
FEW = 5
"""Real samples of a user that the headline is about."""
MOST_TIMES = 4
"""Largest number of generated samples for each real one, which the headline is about."""
# Separates the random numbers of subsets.
_SUBSET = 1


@dataclass(frozen=True)
class Arm:
    """What is added to the real samples of a classifier.

    Attributes:
        source: Origin of the added samples; ``real`` adds none.
        times: Added samples for each real one.
        sifted: Whether samples that the critic or the physics reject are left out.
        classical: Whether all are shifted, stretched and made noisy at random in training.
    """

    source: Source = "real"
    times: float = 0.0
    sifted: bool = False
    classical: bool = False

    @property
    def name(self) -> str:
        """Name in files and tables, such as ``generated x4 sifted``."""
        words = [self.source if self.source == "real" else f"{self.source} x{self.times:g}"]
        return " ".join(words + ["sifted"] * self.sifted + ["classical"] * self.classical)


@dataclass(frozen=True)
class Cell:
    """One classifier to train and to test.

    Attributes:
        classifier: Its kind, see :mod:`~jitflow.apps.microdoppler.study.classifiers`.
        subset: Real samples of each user, such as ``5``; or ``all``.
        arm: What is added to them.
        seed: Number of the seed, from 0.
    """

    classifier: str
    subset: str
    arm: Arm
    seed: int

    @property
    def file_name(self) -> str:
        """Name of the file of its result."""
        words = [self.classifier, f"n{self.subset}", *self.arm.name.split(), f"seed{self.seed}"]
        return f"{'-'.join(words)}.json"


@dataclass(frozen=True)
class Replicate:
    """The cells of a subset and a seed, which share real samples and a generator.

    Attributes:
        subset: As of its cells.
        seed: As of its cells.
        cells: The cells.
    """

    subset: str
    seed: int
    cells: tuple[Cell, ...]

    @property
    def generator(self) -> str:
        """Name of the generator: all seeds of all training samples have one in common."""
        return "n-all" if self.subset == ALL else f"n-{self.subset}-seed{self.seed}"


def list_arms(*, full: bool, simulator: bool) -> list[Arm]:
    """List what is added to the real samples.

    Args:
        full: Whether there are also half and twice as many generated samples.
        simulator: Whether the gait can be read, without which the simulator cannot imitate a user.
    """
    times = (0.5, 1.0, 2.0, float(MOST_TIMES)) if full else (1.0, float(MOST_TIMES))
    most = float(MOST_TIMES)
    return [
        Arm(),
        Arm(classical=True),
        *(Arm("generated", k) for k in times),
        *(Arm("generated", k, sifted=True) for k in times),
        Arm("generated", most, classical=True),
        *([Arm("simulated", most)] if simulator else []),
    ]


def plan_study(
    counts: Sequence[int], classifiers: Sequence[str], arms: Sequence[Arm], num_seeds: int, *, full: bool
) -> list[Replicate]:
    """Plan all cells, the fewest samples first.

    Args:
        counts: Training samples of each user.
        classifiers: Kinds of classifiers.
        arms: What is added.
        num_seeds: Number of seeds.
        full: Whether there are subsets between the fewest and all.

    Returns:
        The replicates. A subset that not every user has enough samples for is left out.

    Raises:
        DataError: If a user has no more than the fewest samples.
    """
    if min(counts) <= FEW:
        raise DataError(
            f"a user has {min(counts)} training samples, and the study compares {FEW} of each user with all; add some "
            "to the data, or leave the user out"
        )
    sizes = [n for n in ((FEW, 10, 20) if full else (FEW,)) if n < min(counts)]
    return [
        Replicate(subset, seed, tuple(Cell(kind, subset, arm, seed) for kind in classifiers for arm in arms))
        for subset in [*map(str, sizes), ALL]
        for seed in range(num_seeds)
    ]


def draw_subset(labels: np.ndarray, subset: str, seed: int, study_seed: int) -> np.ndarray:
    """Draw the real samples of a replicate.

    Args:
        labels: User of each training sample, shape ``(N,)``.
        subset: Number of each user, or ``all``.
        seed: Number of the seed.
        study_seed: Seed of the study.

    Returns:
        Indices, ascending. Those of fewer samples are among those of more of the same seed.
    """
    if subset == ALL:
        return np.arange(len(labels))
    order = np.random.default_rng(mix_seeds(study_seed, _SUBSET, seed)).permutation(len(labels))
    chosen = [order[labels[order] == user][: int(subset)] for user in np.unique(labels)]
    return np.sort(np.concatenate(chosen))
