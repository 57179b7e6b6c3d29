"""Classifiers of the study: a small convolutional network, a support vector machine on features, and ResNet-18."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.study.augmentation import augment
from jitflow.core.seeding import mix_seeds
from jitflow.errors import optional_package

CNN, SVM, RESNET = "CNN", "SVM", "ResNet-18"
SIDE_PX = 64
"""Side of the spectrograms that all classifiers see."""
_BATCH_SIZE, _WARMUP_STEPS, _LABEL_SMOOTHING, _WEIGHT_DECAY = 32, 20, 0.05, 0.05
_LR = {CNN: 3e-3, RESNET: 1e-3}
_WIDTHS = (16, 32, 64)
# The network's time is halved before it: steps of a walk are still told apart.
_COLUMNS = 32
_HIDDEN = 64
# Augmented copies of each sample for the machine, which has no steps to draw them in.
_COPIES = 8
# Lowest frequencies of each velocity over time that are features: up to 6 Hz in 2.5 s.
_CADENCES = 16
_BANDS = 8
_SVM_COST = 10.0


def needed_packages(kinds: tuple[str, ...]) -> None:
    """Raise ConfigError if a package of the classifiers is not installed.

    Args:
        kinds: Kinds of classifiers.
    """
    if SVM in kinds:
        with optional_package("scikit-learn", missing="the study's SVM needs it: pip install 'jitflow[demo]'"):
            import sklearn.svm  # noqa: F401


def predict_users(
    kind: str, train: LabelledImages, images: Tensor, num_users: int, *, seed: int, num_steps: int, classical: bool
) -> Tensor:
    """Train a classifier and predict the users of other spectrograms.

    Args:
        kind: ``CNN``, ``SVM`` or ``ResNet-18``.
        train: Spectrograms to train on, ``(N, C, 64, 64)``, uint8, and their users.
        images: Spectrograms to predict, ``(M, C, 64, 64)``, uint8.
        num_users: Number of users.
        seed: Seed of weights, order and augmentation.
        num_steps: Steps of a network, with 32 spectrograms each.
        classical: Whether the training spectrograms are augmented.

    Returns:
        Labels, shape ``(M,)``, int64.
    """
    if kind == SVM:
        return _predict_by_svm(train, images, seed, classical)
    make: Callable[[], nn.Module] = {CNN: _small_network, RESNET: _resnet}[kind](train.images.shape[1], num_users)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = make()
    _train(net, train, seed, num_steps, _LR[kind], augment if classical else None)
    with torch.inference_mode():
        return torch.cat([net(_levels(part)).argmax(1) for part in images.split(256)])


def _levels(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


class _SmallNetwork(nn.Module):
    """Three convolutions, and a mean over time for each band of velocities, which users differ in."""

    def __init__(self, channels: int, num_users: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in zip((channels, *_WIDTHS), _WIDTHS, (2, 2, (2, 1)), strict=False):
            layers += [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),  # type: ignore[arg-type]
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(_WIDTHS[-1] * SIDE_PX // 8, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, num_users)

    def forward(self, levels: Tensor) -> Tensor:
        """Map levels ``(B, C, 64, 64)`` to logits ``(B, K)``."""
        x = self.convolutions(adaptive_avg_pool2d(levels, (SIDE_PX, _COLUMNS)))
        return self.head(self.hidden(x.mean(dim=3).flatten(1)).relu())


def _small_network(channels: int, num_users: int) -> Callable[[], nn.Module]:
    return lambda: _SmallNetwork(channels, num_users)


def _resnet(channels: int, num_users: int) -> Callable[[], nn.Module]:
    """Build torchvision's ResNet-18 without weights."""

    def make() -> nn.Module:
        from torchvision.models import resnet18

        net = resnet18(weights=None, num_classes=num_users)
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        return net

    return make


def _train(
    net: nn.Module,
    train: LabelledImages,
    seed: int,
    num_steps: int,
    rate: float,
    change: Callable[[Tensor, torch.Generator], Tensor] | None,
) -> None:
    levels, labels = _levels(train.images), train.labels
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY)
    order = torch.empty(0, dtype=torch.int64)
    net.train()
    for step in range(num_steps):
        while len(order) < _BATCH_SIZE:
            order = torch.cat([order, torch.randperm(len(levels), generator=draws)])
        index, order = order[:_BATCH_SIZE], order[_BATCH_SIZE:]
        batch = levels[index]
        logits = net(batch if change is None else change(batch, draws))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / _WARMUP_STEPS) * (1 - step / num_steps)
        optimizer.zero_grad()
        cross_entropy(logits, labels[index], label_smoothing=_LABEL_SMOOTHING).backward()
        optimizer.step()
    net.eval()


def spectrogram_features(levels: Tensor) -> np.ndarray:
    """Describe spectrograms by what does not depend on the moment they begin at.

    Args:
        levels: Shape ``(N, C, 64, 64)``, in ``[-1, 1]``.

    Returns:
        Mean and standard deviation over time of every velocity, and the amplitudes of the 16 lowest frequencies over
        time of 8 bands of velocities (a coarse cadence-velocity diagram); shape ``(N, D)``, float64.
    """
    grey = levels.double().mean(dim=1)
    bands = grey.unflatten(1, (_BANDS, -1)).mean(dim=2)
    cadence = torch.fft.rfft(bands - bands.mean(dim=2, keepdim=True), dim=2).abs()[:, :, 1 : _CADENCES + 1]
    return torch.cat([grey.mean(2), grey.std(2), cadence.flatten(1)], dim=1).numpy()


def _predict_by_svm(train: LabelledImages, images: Tensor, seed: int, classical: bool) -> Tensor:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    levels = _levels(train.images)
    parts = [levels]
    if classical:
        generators = [torch.Generator().manual_seed(mix_seeds(seed, copy)) for copy in range(_COPIES)]
        parts += [augment(levels, generator) for generator in generators]
    features = np.concatenate([spectrogram_features(part) for part in parts])
    machine = make_pipeline(StandardScaler(), SVC(C=_SVM_COST, gamma="scale"))
    machine.fit(features, np.tile(train.labels.numpy(), len(parts)))
    return torch.from_numpy(machine.predict(spectrogram_features(_levels(images)))).long()
