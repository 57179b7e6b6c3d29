"""Feature extractors: map images to the vectors in which they are compared."""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.evaluation.resize import resize
from jitflow.io.files import file_checksum, load_checkpoint, user_path

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_CHECKSUM = "6726825d"
"""Start of the SHA-256 of the Inception weights with which published scores were made."""
_INCEPTION_SIZE_PX = (299, 299)
_INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"


class Features(NamedTuple):
    """Features and logits of a batch of images.

    Attributes:
        features: Shape ``(B, D)``, float32.
        logits: Class scores, shape ``(B, K)``, float32; None if the extractor does not classify.
    """

    features: Tensor
    logits: Tensor | None = None


class FeatureExtractor(Protocol):
    """Feature extractor: a fixed function from images to vectors, independent of the batch an image is in.

    Attributes:
        name: Name in reports.
        dim: Length D of a vector.
        checksum: SHA-256 of its weights; None if it has none.
        preprocessing: What happens to the pixels before the network, and which of its outputs the feature is, for the
            protocol card: ``size_px``, ``filter``, ``antialias``, ``mean``, ``std``, ``feature``, ``source``.
    """

    name: str
    dim: int
    checksum: str | None
    preprocessing: dict[str, Any]

    def __call__(self, images: Tensor) -> Features:
        """Extract the features of images ``(B, C, H, W)``, uint8, C 1 or 3, on the extractor's device."""
        ...

    def features(self, pixels: Tensor) -> Tensor:
        """Extract the features ``(B, D)`` of grey levels ``(B, C, H, W)`` in ``[0, 255]``, float, with gradients."""
        ...

    def to(self, device: torch.device | str) -> FeatureExtractor:
        """Move the extractor to a device, in place, and return it."""
        ...


class PixelExtractor:
    """Features from pixels averaged over areas: no weights, for small images and tests.

    Args:
        side: The features are the means of ``side x side`` areas.
        channels: 1 compares brightness, 3 colours.
    """

    checksum: str | None = None

    def __init__(self, side: int = 8, channels: int = 1) -> None:
        if side < 1 or channels not in (1, 3):
            raise ConfigError(f"side must be at least 1 and channels 1 or 3; got {side} and {channels}")
        self.side = side
        self.channels = channels
        self.name = f"pixels-{channels}x{side}x{side}"
        self.dim = channels * side * side
        self.preprocessing: dict[str, Any] = {
            "size_px": [side, side],
            "filter": "means of areas",
            "antialias": True,
            "mean": [0.0] * channels,
            "std": [1.0] * channels,
            "feature": "grey levels / 255" if channels == 1 else "colours / 255",
            "source": "jitflow",
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Compute the features of images by averaging areas of pixels.

        Args:
            images: Shape ``(B, C, H, W)``, uint8; C is 1 or 3.

        Returns:
            Features, shape ``(B, channels * side * side)``, in ``[0, 1]``; no logits.
        """
        return Features(self.features(check_images(images).float()))

    def features(self, pixels: Tensor) -> Tensor:
        """Average grey levels over areas, see :meth:`FeatureExtractor.features`."""
        pixels = pixels / 255
        if self.channels == 1:
            pixels = pixels.mean(dim=1, keepdim=True)
        return adaptive_avg_pool2d(pixels.expand(-1, self.channels, -1, -1), self.side).flatten(1)

    def to(self, device: torch.device | str) -> PixelExtractor:
        """Return the extractor itself; it computes on the device of the images."""
        return self


class InceptionExtractor:
    """Features of the 2015 Inception network that defines FID and Inception Score, from torch-fidelity.

    Nothing is ever downloaded.

    Args:
        weights_path: torch-fidelity's weights file; None looks where torch-fidelity keeps it.
        clean: Resize as clean-fid does (bicubic, antialiased), instead of as TensorFlow did inside the network.

    Attributes:
        net: The network; it takes uint8 images and gives pooled features and logits.

    Raises:
        ConfigError: If torch-fidelity is not installed.
        MissingFileError: If the weights are missing; the message says where to put them.
        CheckpointError: If the file is damaged or holds other weights.

    References:
        Heusel et al. 2017, arXiv:1706.08500; the conversion from TensorFlow is torch-fidelity's. Parmar et al.
        2022, arXiv:2104.11222, for ``clean``.
    """

    name: str = "inception-v3-2015-12-05"
    dim: int = 2048

    def __init__(self, weights_path: str | Path | None = None, *, clean: bool = False) -> None:
        path = find_inception_weights(weights_path)
        self._clean = clean
        if clean:
            self.name = f"{InceptionExtractor.name}-clean"
        self.preprocessing: dict[str, Any] = {
            "size_px": list(_INCEPTION_SIZE_PX),
            "filter": "bicubic" if clean else "bilinear of TensorFlow 1, inside the network",
            "antialias": clean,
            "mean": [128 / 255] * 3,
            "std": [128 / 255] * 3,
            "feature": "mean over places of the last pooling layer, 2048 channels",
            "source": "clean-fid, arXiv:2104.11222" if clean else "FID, arXiv:1706.08500; torch-fidelity",
        }
        self.checksum: str | None = file_checksum(path)
        if not self.checksum.startswith(INCEPTION_CHECKSUM):
            warnings.warn(
                f"{path} is not the Inception of the published scores (SHA-256 {self.checksum[:8]}..., expected "
                f"{INCEPTION_CHECKSUM}...); its FID compares with no other",
                stacklevel=2,
            )
        self.net = _build_inception(path)
        self._device = torch.device("cpu")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Run the network.

        Args:
            images: Shape ``(B, C, H, W)``, uint8; C is 3, or 1, which is repeated; any size (the network
                itself resizes to 299 x 299, as TensorFlow did).

        Returns:
            Pooled features ``(B, 2048)`` and logits without bias ``(B, 1008)``.
        """
        images = check_images(images).expand(-1, 3, -1, -1)
        with torch.autocast(self._device.type, enabled=False):
            return self._of_resized(resize(images, _INCEPTION_SIZE_PX)) if self._clean else Features(*self.net(images))

    def features(self, pixels: Tensor) -> Tensor:
        """Run the network on grey levels that need not be whole, see :meth:`FeatureExtractor.features`."""
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        pixels = pixels.expand(-1, 3, -1, -1)
        with torch.autocast(self._device.type, enabled=False):
            resized: Tensor = (
                resize(pixels, _INCEPTION_SIZE_PX)
                if self._clean
                else interpolate_bilinear_2d_like_tensorflow1x(pixels, size=_INCEPTION_SIZE_PX, align_corners=False)
            )
            return self._of_resized(resized).features

    def _of_resized(self, pixels: Tensor) -> Features:
        """Run the network on images that are resized before it; its own resizing takes whole grey levels only."""
        first: nn.Module = self.net.Conv2d_1a_3x3  # type: ignore[assignment]
        hook = first.register_forward_pre_hook(lambda layer, given: ((pixels - 128) / 128,))
        try:
            # What it is given is of no effect.
            return Features(*self.net(torch.zeros(len(pixels), 3, 8, 8, dtype=torch.uint8, device=pixels.device)))
        finally:
            hook.remove()

    def to(self, device: torch.device | str) -> InceptionExtractor:
        """Move the network to a device, in place, and return the extractor."""
        self._device = torch.device(device)
        self.net.to(self._device)
        return self


def find_inception_weights(weights_path: str | Path | None = None) -> Path:
    """Find the weights of the Inception extractor without building it.

    Args:
        weights_path: The weights file; None looks where torch-fidelity keeps it.

    Returns:
        The file.

    Raises:
        ConfigError: If torch-fidelity is not installed.
        MissingFileError: If there is no such file.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ConfigError("FID and Inception Score need torch-fidelity; pip install 'jitflow[eval]'")
    if weights_path is not None:
        path = user_path(weights_path)
    else:
        path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise MissingFileError(
            f"the Inception weights {path} are missing, and jitflow never downloads them; "
            f"get {_INCEPTION_URL} and put it there"
        )
    return path


def _build_inception(path: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity would unpickle anything in the file; it is given tensors that were read safely.
    safe = io.BytesIO()
    torch.save(load_checkpoint(path), safe)
    safe.seek(0)
    try:
        # Random initialisation of its layers must not advance the global generator of a training.
        with torch.random.fork_rng(devices=()):
            net: nn.Module = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
            )
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the Inception weights ({str(error).splitlines()[0]})") from None
    return net


def check_images(images: Tensor) -> Tensor:
    """Validate images; raise ConfigError unless they are uint8 of shape ``(B, 1 or 3, H, W)``."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ConfigError(f"images must be uint8 of shape (B, 1 or 3, H, W); got {images.dtype}, {tuple(images.shape)}")
    return images
