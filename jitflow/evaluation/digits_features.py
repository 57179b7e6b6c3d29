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
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, gelu, interpolate, pad

from jitflow.data.digits import digits_arrays
from jitflow.errors import CheckpointError, ConfigError
from jitflow.evaluation.features import Features, check_images
from jitflow.io.files import atomic_path, user_path
from jitflow.io.safetensors_file import read_tensors

DIGITS_FILE = "digits_judge.safetensors"
_SIDE_PX = 8
# Everything but the scans that determines the weights; raise the version if the code below changes them.
RECIPE: dict[str, Any] = {
    "version": 1,
    "num_classes": 10,
    "widths": [32, 64],
    "dim": 64,
    "sides_px": [8, 16, 32],
    "num_epochs": 30,
    "batch_size": 64,
    "lr": 3e-3,
    "warmup_steps": 50,
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "shift_share": 0.5,
    "seed": 0,
}
"""Everything that the weights depend on besides the scans; raise the version when the code below changes them."""


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
            "size_px": [_SIDE_PX, _SIDE_PX],
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
        pixels = check_images(images).float().mean(dim=1, keepdim=True) / 255
        with torch.autocast(self._device.type, enabled=False):
            features = self._net.features(adaptive_avg_pool2d(pixels, _SIDE_PX))
            return Features(features, self._net.head(features))

    def to(self, device: torch.device | str) -> DigitsExtractor:
        """Move the network, in place, and return itself."""
        self._device = torch.device(device)
        self._net.to(self._device)
        return self


class DigitsClassifier(nn.Module):
    """Classifier of digits: two convolutions and two linear layers, with uninitialised weights.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int = RECIPE["num_classes"]) -> None:
        super().__init__()
        first, second = RECIPE["widths"]
        like: dict[str, Any] = {"device": "meta", "dtype": torch.float32}
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, **like)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1, **like)
        self.hidden = nn.Linear(second * (_SIDE_PX // 2) ** 2, RECIPE["dim"], **like)
        self.head = nn.Linear(RECIPE["dim"], num_classes, **like)
        self.to_empty(device="cpu")
        self.requires_grad_(False)

    def features(self, pixels: Tensor) -> Tensor:
        """Map pixels ``(B, 1, 8, 8)`` in ``[0, 1]`` to the features ``(B, dim)``."""
        return gelu(self.hidden(gelu(self.conv2(gelu(self.conv1(pixels)))).flatten(1)))


def train_weights(images: np.ndarray, labels: np.ndarray, recipe: Mapping[str, Any] = RECIPE) -> dict[str, Tensor]:
    """Train the weights of :class:`DigitsClassifier` on scans ``(N, 1, 8, 8)`` in ``[0, 16]``, always the same way."""
    # One thread gives a fixed order of sums, whatever the program has set; so small a network is no faster with more.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            return _train_on_one_thread(torch.from_numpy(images).float() / 16, torch.from_numpy(labels), recipe)
    finally:
        torch.set_num_threads(num_threads)


def _train_on_one_thread(scans: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(recipe["seed"])
    net = DigitsClassifier(recipe["num_classes"]).requires_grad_(True)
    for parameter in net.parameters():
        fan_in = parameter[0].numel()
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=(2 / fan_in) ** 0.5, generator=generator)
        else:
            nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe["lr"], weight_decay=recipe["weight_decay"])
    # The scans after enlarging to a data module's size and averaging back.
    views = torch.stack([view_at_side(scans, side) for side in recipe["sides_px"]])
    batch_size = recipe["batch_size"]
    num_steps = recipe["num_epochs"] * (len(scans) // batch_size)
    order = torch.cat([torch.randperm(len(scans), generator=generator) for _ in range(recipe["num_epochs"])])
    for step, index in enumerate(order[: num_steps * batch_size].split(batch_size)):
        view = torch.randint(len(views), (batch_size,), generator=generator)
        logits = net.head(net.features(_shift(views[view, index], generator)))
        loss = cross_entropy(logits, labels[index], label_smoothing=recipe["label_smoothing"])
        for group in optimizer.param_groups:
            group["lr"] = recipe["lr"] * min(1, (step + 1) / recipe["warmup_steps"]) * (1 - step / num_steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def view_at_side(scans: Tensor, side_px: int) -> Tensor:
    """Enlarge pixels ``(N, 1, 8, 8)`` to a side, as data modules do, and average them back to 8 x 8."""
    if side_px == _SIDE_PX:
        return scans
    larger = interpolate(scans, size=side_px, mode="bicubic", align_corners=False, antialias=True)
    return adaptive_avg_pool2d(larger.clamp(0, 1), _SIDE_PX)


def _shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift some of the images ``(B, 1, 8, 8)`` by up to a pixel in each direction."""
    num = len(pixels)
    moved = torch.rand(num, generator=generator, dtype=torch.float32) < RECIPE["shift_share"]
    down, right = 1 + torch.randint(-1, 2, (2, num), generator=generator) * moved
    places = torch.arange(_SIDE_PX)
    rows, columns = (down[:, None] + places)[:, :, None], (right[:, None] + places)[:, None, :]
    return pad(pixels, (1, 1, 1, 1))[torch.arange(num)[:, None, None], 0, rows, columns][:, None]


def _recipe_checksum(images: np.ndarray, labels: np.ndarray, recipe: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for array in (images, labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def weights_checksum(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 of weights by name."""
    return hashlib.sha256(safetensors.torch.save(weights)).hexdigest()


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
