"""Feature extractor for digits that never saw a label: a small network that tells how far a scan was turned."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from jitflow.encoders.digits import RECIPE
from jitflow.evaluation.digits_features import DigitsExtractor
from jitflow.evaluation.features import Features

ROTATION_FILE = "digits_rotation.safetensors"
_TURNS = 4


class RotationExtractor(DigitsExtractor):
    """Features of a small network trained to tell by how many quarter turns a scan was turned; no label is used.

    A judge held out from all training: no loss, judge or classifier of the library uses it, so a model that was fitted
    to the features of :class:`DigitsExtractor` gains nothing here.

    References:
        Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations", arXiv:1803.07728.
    """

    name: str = "digits-rotation-cnn"
    file_name: ClassVar[str] = ROTATION_FILE
    recipe: ClassVar[dict[str, Any]] = {**RECIPE, "num_classes": _TURNS, "num_epochs": 4}
    feature: ClassVar[str] = "input of the last layer of a network that tells quarter turns apart"

    @staticmethod
    def training_data(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scans at each of four turns, ``(4 N, 1, 8, 8)``, and the number of quarter turns of each."""
        turned = [np.rot90(images, turns, axes=(2, 3)) for turns in range(_TURNS)]
        return np.ascontiguousarray(np.concatenate(turned)), np.repeat(np.arange(_TURNS), len(labels))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Extract the features of images, as :class:`DigitsExtractor`; the turns it would guess are no logits."""
        return Features(super().__call__(images).features)
