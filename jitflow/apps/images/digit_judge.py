"""Judge generated digits with a classifier of real scans and the Frechet distance to held-out ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jitflow.data.digits import DigitsDataModule, digits_arrays
from jitflow.errors import optional_package
from jitflow.evaluation.digits_features import DigitsExtractor
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.moments import Moments


class DigitJudge:
    """Support-vector classifier of real scans that tells which digit a generated image shows.

    It is trained on the same scans as the model and tested on scans that neither has seen.

    Attributes:
        held_out_accuracy: Accuracy on the unseen scans.

    Raises:
        ConfigError: If scikit-learn is not installed.
    """

    def __init__(self) -> None:
        with optional_package("sklearn", missing="the digits' judge needs scikit-learn; pip install 'jitflow[demo]'"):
            from sklearn.svm import SVC
        images, labels = digits_arrays("train")
        self._svm = SVC(C=10, gamma="scale").fit(images.reshape(len(images), -1), labels)
        images, labels = digits_arrays("val")
        self.held_out_accuracy = float(self._svm.score(images.reshape(len(images), -1), labels))

    def read(self, pixels: Tensor) -> np.ndarray:
        """Classify images of digits.

        Args:
            pixels: Images, shape ``(N, 1, H, W)``, uint8, with H and W multiples of 8.

        Returns:
            The predicted digit of each image, shape ``(N,)``.
        """
        small = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 8) * (16 / 255)
        return np.asarray(self._svm.predict(small.round().flatten(1).numpy()))


def digits_distance(pixels: Tensor, *, cache: Path | None = None) -> tuple[float, float]:
    """Compute the Frechet distance of generated digits to real ones, and its floor between real ones.

    Args:
        pixels: Generated digits, shape ``(N, 1, 16, 16)``, uint8.
        cache: Folder that caches the feature network.

    Returns:
        Frechet distance between generated and held-out digits under the features of a small network trained on
        the others, and the same distance between two halves of all real digits.
    """
    extractor = DigitsExtractor(cache_dir=cache)
    data = DigitsDataModule((pixels.shape[-2], pixels.shape[-1]))
    data.setup("fit")
    train, held_out = data.dataset_train.images, data.dataset_val.images
    every = torch.cat([train, held_out])
    halves = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))].chunk(2)

    def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
        moments = Moments(extractor.dim)
        moments.update(extractor(images).features)
        return moments.mean, moments.covariance

    generated = frechet_distance(*statistics(pixels), *statistics(held_out))
    return generated, frechet_distance(*statistics(halves[0]), *statistics(halves[1]))
