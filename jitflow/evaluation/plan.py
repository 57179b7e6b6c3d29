"""Evaluation plan: which images are generated to be scored, with which seeds and sampling settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from jitflow.errors import MOST_SAMPLES, ConfigError, check_count
from jitflow.model import Model
from jitflow.training.samples import Samples


@dataclass(frozen=True)
class Plan:
    """Sampling plan of an evaluation. A setting that is None takes the model's own.

    Attributes:
        num_images: Total number of images, a multiple of the classes if the labels are balanced.
        seed: Seed of image 0; image i has ``seed + i``.
        labels: ``"balanced"``: image i has class ``i % num_classes``; ``"random"``: classes are drawn independently
            and uniformly, as in papers that sample labels at random.
        guidance: Guidance scale.
        interval: Times (low, high) between which guidance acts.
        solver: Name of the solver.
        steps: Steps of the solver.
        ema: 1 or 2 for an EMA of the weights, 0 for the weights themselves, a width such as 0.1 for a reconstructed
            EMA.
        precision: ``"32"``, ``"bf16"`` or ``"16"`` inside the network; ``"auto"`` is bf16 on a
            GPU that has it, else 32.
        batch_size: Images per batch; does not change the score.
    """

    num_images: int
    seed: int = 0
    labels: Literal["balanced", "random"] = "balanced"
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    solver: str | None = None
    steps: int | None = None
    ema: float = 1
    precision: str = "auto"
    batch_size: int = 64

    def check(self, num_classes: int) -> None:
        """Raise ConfigError if the images cannot be balanced over the classes, or the batch size is invalid.

        Args:
            num_classes: Number of the model's classes.
        """
        check_count("num_images", self.num_images, least=0, most=MOST_SAMPLES)
        check_count("batch_size", self.batch_size)
        # The seeds of the images follow the first one.
        check_count("seed", self.seed, least=0, most=(1 << 63) - self.num_images)
        num_classes = max(1, num_classes)
        if self.num_images < 2 or (self.labels == "balanced" and self.num_images % num_classes):
            nearest = max(1, round(self.num_images / num_classes)) * num_classes
            raise ConfigError(
                f"num_images ({self.num_images}) must be a multiple of the model's {num_classes} classes, "
                f"so that they are balanced; the nearest is {nearest}"
            )

    def classes(self, num_classes: int) -> list[int]:
        """Return the class of each image.

        Args:
            num_classes: Number of the model's classes; of a model without classes all are 0, which means none.
        """
        num_classes = max(1, num_classes)
        if self.labels == "balanced":
            return [i % num_classes for i in range(self.num_images)]
        draws = torch.Generator().manual_seed(self.seed)
        return torch.randint(num_classes, (self.num_images,), generator=draws).tolist()

    def part(
        self, model: Model, index: Sequence[int], on_progress: Callable[[int, int], None] | None = None
    ) -> Samples:
        """Generate the images of the given indices.

        Args:
            model: The model.
            index: Indices of the images.
            on_progress: See :meth:`jitflow.model.Model.sample`.
        """
        classes = self.classes(model.module.num_classes)
        labels = [classes[i] for i in index]
        settings = {k: v for k, v in asdict(self).items() if k not in ("num_images", "seed", "labels")}
        model.compile_for(self.num_images, self.batch_size)
        return model.sample(labels, [self.seed + i for i in index], **settings, on_progress=on_progress)
