"""Feature extractor for digits: a small classifier trained on the built-in scans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from jitflow.data.digits import digits_arrays
from jitflow.encoders.digits import RECIPE, SIDE_PX, DigitsClassifier, train_weights, weights_checksum
from jitflow.errors import CheckpointError, ConfigError
from jitflow.evaluation.features import Features, check_images
from jitflow.io.files import atomic_path, user_path
from jitflow.io.safetensors_file import read_tensors

DIGITS_FILE = "digits_judge.safetensors"


class DigitsExtractor:
    """Features of a small classifier of handwritten digits, which is trained in seconds on first use.

    It is trained deterministically on the training split alone and does not use the global random generator. One
    machine gives the same weights every time; another may round differently, which the checksum shows.

    Args:
        cache_dir: Folder that caches the trained weights, unless scans or training have changed since; None trains
            every time.

    Raises:
        ConfigError: If scikit-learn is not installed or the folder cannot be written.
    """

    name: str = "digits-cnn"
    file_name: ClassVar[str] = DIGITS_FILE
    recipe: ClassVar[dict[str, Any]] = RECIPE
    dim: int = RECIPE["dim"]
    feature: ClassVar[str] = "input of the last layer of a classifier of digits"

    def __init__(self, cache_dir: Path | None = None) -> None:
        images, labels = self.training_data(*digits_arrays("train"))
        path = None if cache_dir is None else user_path(cache_dir) / self.file_name
        recipe = _recipe_checksum(images, labels, self.recipe)
        weights = None if path is None else _read(path, recipe)
        if weights is None:
            weights = train_weights(images, labels, self.recipe)
            if path is not None:
                _write(path, weights, recipe)
        self.checksum: str | None = weights_checksum(weights)
        self._net = DigitsClassifier(self.recipe["num_classes"])
        self._net.load_state_dict(weights)
        self._device = torch.device("cpu")
        self.preprocessing: dict[str, Any] = {
            "size_px": [SIDE_PX, SIDE_PX],
            "filter": "means of areas",
            "antialias": True,
            "mean": [0.0],
            "std": [1.0],
            "feature": self.feature,
            "source": "jitflow",
        }

    @staticmethod
    def training_data(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the network is trained on: scans ``(N, 1, 8, 8)`` in ``[0, 16]`` and labels ``(N,)``."""
        return images, labels

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Extract features and logits of images of digits.

        Args:
            images: Shape ``(B, C, H, W)``, uint8, of any size (area-averaged to 8 x 8); C is 1, or 3, which is
                converted to brightness.

        Returns:
            Features before the last layer, ``(B, 64)``, and logits, ``(B, 10)``.
        """
        features = self.features(check_images(images).float())
        with torch.autocast(self._device.type, enabled=False):
            return Features(features, self._net.head(features))

    def features(self, pixels: Tensor) -> Tensor:
        """Extract the features of grey levels, see :meth:`jitflow.evaluation.features.FeatureExtractor.features`."""
        grey = pixels.mean(dim=1, keepdim=True) / 255
        with torch.autocast(self._device.type, enabled=False):
            return self._net.features(adaptive_avg_pool2d(grey, SIDE_PX))

    def to(self, device: torch.device | str) -> DigitsExtractor:
        """Move the network, in place, and return itself."""
        self._device = torch.device(device)
        self._net.to(self._device)
        return self


def _recipe_checksum(images: np.ndarray, labels: np.ndarray, recipe: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for array in (images, labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(path: Path, recipe: str) -> dict[str, Tensor] | None:
    """Read cached weights of this recipe, unchanged since; None if they must be trained."""
    try:
        weights, metadata = read_tensors(path)
    except CheckpointError:
        return None
    whole = metadata.get("recipe") == recipe and metadata.get("weights") == weights_checksum(weights)
    return weights if whole else None


def _write(path: Path, weights: dict[str, Tensor], recipe: str) -> None:
    try:
        with atomic_path(path) as temporary:
            metadata = {"format": "pt", "recipe": recipe, "weights": weights_checksum(weights)}
            safetensors.torch.save_file(weights, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be written ({error}); name another cache_dir, or None for no cache") from None
