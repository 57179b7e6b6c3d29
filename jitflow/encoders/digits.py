"""Small classifier of digits, trained on the built-in scans: features for judges, and maps of features for losses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, gelu, interpolate, pad

from jitflow.encoders.maps import MapEncoder

SIDE_PX = 8
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
        self.hidden = nn.Linear(second * (SIDE_PX // 2) ** 2, RECIPE["dim"], **like)
        self.head = nn.Linear(RECIPE["dim"], num_classes, **like)
        self.to_empty(device="cpu")
        self.requires_grad_(False)

    def features(self, pixels: Tensor) -> Tensor:
        """Map pixels ``(B, 1, 8, 8)`` in ``[0, 1]`` to the features ``(B, dim)``."""
        return gelu(self.hidden(self.maps(pixels).flatten(1)))

    def maps(self, pixels: Tensor) -> Tensor:
        """Map pixels ``(B, 1, 8, 8)`` in ``[0, 1]`` to the features of 4 x 4 places, ``(B, 64, 4, 4)``."""
        return gelu(self.conv2(gelu(self.conv1(pixels))))


class DigitsMaps(MapEncoder):
    """Maps of the classifier's second convolution: 64 features at 4 x 4 places of a digit.

    Args:
        weights: Weights of :class:`DigitsClassifier`, by name.
    """

    name = "digits-cnn"

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = DigitsClassifier()
        self.net.load_state_dict(weights)
        self.checksum = weights_checksum(dict(weights))
        self.num_features = RECIPE["widths"][-1]

    def forward(self, images: Tensor) -> Tensor:
        """Encode images, as :meth:`MapEncoder.forward`; they are averaged over areas to 8 x 8 grey pixels."""
        grey = (images.mean(dim=1, keepdim=True) + 1) / 2
        return self.net.maps(adaptive_avg_pool2d(grey, SIDE_PX)).float()


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
    if side_px == SIDE_PX:
        return scans
    larger = interpolate(scans, size=side_px, mode="bicubic", align_corners=False, antialias=True)
    return adaptive_avg_pool2d(larger.clamp(0, 1), SIDE_PX)


def _shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift some of the images ``(B, 1, 8, 8)`` by up to a pixel in each direction."""
    num = len(pixels)
    moved = torch.rand(num, generator=generator, dtype=torch.float32) < RECIPE["shift_share"]
    down, right = 1 + torch.randint(-1, 2, (2, num), generator=generator) * moved
    places = torch.arange(SIDE_PX)
    rows, columns = (down[:, None] + places)[:, :, None], (right[:, None] + places)[:, None, :]
    return pad(pixels, (1, 1, 1, 1))[torch.arange(num)[:, None, None], 0, rows, columns][:, None]


def weights_checksum(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 of weights by name."""
    return hashlib.sha256(safetensors.torch.save(weights)).hexdigest()
