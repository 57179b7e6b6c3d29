"""Judge a model during its training in a feature space that the training does not optimise."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.callbacks.samples import as_flow_module
from jitflow.errors import ConfigError
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.reference import load_reference
from jitflow.training.trained_on import is_same_space, optimised_spaces

SCORE = "eval/held_out"
"""Name of the score in logs; lower is better."""


class HeldOutJudge(FIDEvaluationCallback):
    """Frechet distance of generated to real images under an extractor that no loss of the training uses.

    Lightning's ``EarlyStopping(monitor="eval/held_out")`` stops a training whose score gets worse.

    Args:
        extractor: Name of the extractor, see :func:`jitflow.evaluation.extractors.make_extractor`.
        reference: Real images or their statistics, see :func:`jitflow.evaluation.reference.load_references`.
        num_images: Images to generate; rounded to a multiple of the classes.
        eval_freq: Epochs between two evaluations.
        batch_size: Images per batch and process.

    Raises:
        ConfigError: If a number is below 1.
    """

    def __init__(
        self, extractor: str, reference: str, num_images: int = 5000, eval_freq: int = 1, batch_size: int = 256
    ) -> None:
        super().__init__(eval_freq, num_images, batch_size, num_classes=1, img_size=1)
        self._spec, self._real = extractor, reference

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read extractor and reference, and check that the training does not optimise them.

        Raises:
            ConfigError: If the extractor is one of those that the training optimises.
            MissingFileError: If weights or statistics are missing.
        """
        module = as_flow_module(pl_module, self)
        channels, height, width = module.codec.shape
        size: dict[str, Any] = {"img_size": (height, width), "channels": channels}
        self.extractor = make_extractor(self._spec)
        own = [name for name in optimised_spaces(module.loss_terms) if is_same_space(name, self.extractor.name)]
        if own:
            raise ConfigError(
                f"the judge {self._spec} is one of the feature spaces that the training optimises ({own[0]}), and so "
                "judges nothing; name another, or none"
            )
        with torch.random.fork_rng(devices=[]):
            found = load_reference(self._real, self.extractor, **size)
        self.reference = (found.statistics.mu, found.statistics.sigma)
        self.num_classes = max(1, module.num_classes)
        self.num_images = max(1, round(self.num_images / self.num_classes)) * self.num_classes
        super().setup(trainer, pl_module, stage)

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> dict[str, float]:
        """Score the model, see the base class; returns ``eval/held_out``."""
        return {SCORE: super()._evaluate(trainer, pl_module, epoch)["eval/fid"]}
