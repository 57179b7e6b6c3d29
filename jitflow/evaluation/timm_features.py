"""Features of any timm backbone, such as DINOv2, with weights from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jitflow.encoders.timm_network import read_timm_network
from jitflow.errors import ConfigError
from jitflow.evaluation.features import Features, check_images
from jitflow.evaluation.resize import resize


class TimmExtractor:
    """A network of timm as a feature extractor; nothing is ever downloaded.

    Images are resized to the network's training size (directly, with its own interpolation and without a crop, so the
    borders count too) and normalised with its own mean and standard deviation. Features are the input of the network's
    classifier; if the file holds a classifier, there are logits too.

    FD-DINOv2 is the Frechet distance of ``vit_large_patch14_dinov2`` at ``img_size=224``, the size of the paper and
    of EDM2; timm's own is 518.

    Args:
        model_name: As in :func:`jitflow.encoders.timm_network.read_timm_network`, with its errors.
        weights_path: As there.
        img_size: Side of the network's input in pixels; None takes timm's setting.

    Raises:
        ConfigError: If the network gives no vector for each image at this size.

    References:
        Stein et al. 2023, arXiv:2306.04675 (DINOv2 in place of Inception); Oquab et al. 2023, arXiv:2304.07193.
    """

    def __init__(self, model_name: str, weights_path: str | Path, *, img_size: int | None = None) -> None:
        network = read_timm_network(model_name, weights_path, img_size)
        self._net, self._size_px = network.net, network.size_px
        self._mean, self._std, self._interpolation = network.mean, network.std, network.interpolation
        # The "classifier" of a CLIP network that was not trained to classify projects into the space of its texts.
        projects = "_clip_" in model_name and "_ft_" not in model_name
        self._classifies = bool(getattr(self._net, "num_classes", 0)) and not projects
        self._device = torch.device("cpu")
        self.name = network.name
        self.checksum: str | None = network.checksum
        self.preprocessing: dict[str, Any] = {
            "size_px": list(self._size_px),
            "filter": self._interpolation,
            "antialias": True,
            "mean": self._mean.flatten().tolist(),
            "std": self._std.flatten().tolist(),
            "feature": _feature_of(self._net),
            "source": f"timm's settings of {model_name}, resized without a crop",
        }
        self.dim = self._probe_dim(model_name)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Run the network.

        Args:
            images: Shape ``(B, C, H, W)``, uint8, of any size; C is 3, or 1, which is repeated.

        Returns:
            Features, shape ``(B, dim)``, float32; logits, shape ``(B, K)``, if the weights include a classifier.
        """
        with torch.autocast(self._device.type, enabled=False):
            maps = self._maps(check_images(images))
            features = self._net.forward_head(maps, pre_logits=True)  # type: ignore[operator]
            logits = self._net.forward_head(maps) if self._classifies else None  # type: ignore[operator]
        return Features(features, logits)

    def features(self, pixels: Tensor) -> Tensor:
        """Extract the features of grey levels, see :meth:`jitflow.evaluation.features.FeatureExtractor.features`."""
        with torch.autocast(self._device.type, enabled=False):
            features: Tensor = self._net.forward_head(self._maps(pixels), pre_logits=True)  # type: ignore[operator]
        return features

    def _maps(self, images: Tensor) -> Any:
        """Resize and normalise images ``(B, C, H, W)`` in ``[0, 255]``, and run the network up to its pooling."""
        pixels = resize(images.expand(-1, 3, -1, -1), self._size_px, self._interpolation)
        return self._net.forward_features((pixels / 255 - self._mean) / self._std)  # type: ignore[operator]

    def to(self, device: torch.device | str) -> TimmExtractor:
        """Move the network, in place, and return itself."""
        self._device = torch.device(device)
        self._net.to(self._device)
        self._mean, self._std = self._mean.to(self._device), self._std.to(self._device)
        return self

    def _probe_dim(self, model_name: str) -> int:
        """Find the feature dimension with a blank image, so that an unusable size fails before long work starts."""
        try:
            features = self(torch.zeros(1, 3, *self._size_px, dtype=torch.uint8)).features
        # Networks react differently to an unsupported size.
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            raise ConfigError(
                f"{model_name} gives no features at {self._size_px} ({reason}); try its own size"
            ) from None
        if features.ndim != 2:
            raise ConfigError(f"{model_name} gives features of shape {tuple(features.shape)}, not one vector per image")
        return features.shape[1]


def _feature_of(net: nn.Module) -> str:
    """Return which output of a network is the feature: what its classifier would get."""
    pools = {
        "token": "class token after the last norm",
        "avg": "mean over patches or places",
        "map": "attention pooling",
        "": "all places",
    }
    pool = getattr(net, "global_pool", None)
    if not isinstance(pool, str):
        # Convolutional networks pool in their head.
        pool = getattr(getattr(net, "head", None), "global_pool", pool)
        pool = str(getattr(pool, "pool_type", ""))
    return pools.get(pool, f"pooling {pool!r}") if pool else "the input of the classifier"
