"""User classifier that judges generated spectrograms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, gelu

from jitflow.apps.microdoppler.labelled_images import check_labels
from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.features import check_images

# Input side of the network: averaging over areas removes noise but keeps steps and limbs.
_SIDE_PX = 64
_WIDTHS = (16, 32, 64, 64)
_DIM = 64
_GROUPS = 8
CROP_PX = 56
"""Columns of a training crop; the phase of the gait at the start of a recording says nothing about the user."""
_BATCH_SIZE = 32
_LR, _WEIGHT_DECAY, _WARMUP_STEPS, _LABEL_SMOOTHING = 3e-3, 0.05, 30, 0.05
_MIN_STEPS, _NUM_EPOCHS = 300, 20
CHUNK_IMAGES = 256
"""Images per batch at inference, which bounds memory."""

OnProgress = Callable[[int, int], None]


class IdentityClassifier:
    """Trained classifier of users by their spectrograms; created by :func:`train_classifier`.

    Images are area-averaged to 64 x 64, so any size works whose axes span the same time and velocities as the training
    images. The prediction for an image does not depend on the other images.

    Attributes:
        num_users: Number K of users.
        dim: Length D of a feature vector.
    """

    dim: int = _DIM

    def __init__(self, net: _Net, num_users: int) -> None:
        self.num_users = num_users
        self._net = net

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors from before the last layer, which separate the users.

        Args:
            images: Shape ``(N, C, H, W)``, uint8; C is 3, or 1, which is repeated.

        Returns:
            Features, shape ``(N, 64)``, float32.

        Raises:
            ConfigError: If the images' shape or type is wrong.
        """
        return self._run(images, self._net.features, _DIM)

    def predict(self, images: Tensor) -> Tensor:
        """Predict the most likely user of each image.

        Args:
            images: Shape ``(N, C, H, W)``, uint8, as in :meth:`features`.

        Returns:
            Labels in ``[0, K)``, shape ``(N,)``, int64.
        """
        return self._run(images, lambda pixels: self._net.head(self._net.features(pixels)), self.num_users).argmax(1)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Return the share of correctly classified images, in ``[0, 1]``.

        Args:
            images: Shape ``(N, C, H, W)``, uint8, N at least 1.
            labels: Shape ``(N,)``, whole numbers in ``[0, K)``.

        Raises:
            ConfigError: If the shapes are inconsistent or a label is out of range.
            DataError: If there are no images.
        """
        check_labels(images, labels, self.num_users)
        return float((self.predict(images) == labels).double().mean())

    def confusion(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the confusion matrix; see :func:`confusion_matrix`."""
        check_labels(images, labels, self.num_users)
        return confusion_matrix(labels, self.predict(images), self.num_users)

    def _run(self, images: Tensor, function: Callable[[Tensor], Tensor], dim: int) -> Tensor:
        pixels = _shrink(images)
        found = torch.empty(len(pixels), dim)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for first in range(0, len(pixels), CHUNK_IMAGES):
                found[first : first + CHUNK_IMAGES] = function(pixels[first : first + CHUNK_IMAGES])
        return found


def train_classifier(
    images: Tensor,
    labels: Tensor,
    num_users: int,
    *,
    seed: int = 0,
    num_steps: int | None = None,
    on_progress: OnProgress | None = None,
) -> IdentityClassifier:
    """Train a small convolutional network to classify the user of a spectrogram.

    Images are averaged to 64 x 64, standardised by mean and standard deviation of each channel, and randomly cropped in
    time, which hides the phase of a walk but not its pace. They are never mirrored or stretched. Training uses one CPU
    thread and its own generator, so that a machine gives the same network every time.

    Args:
        images: Shape ``(N, C, H, W)``, uint8; C is 1 or 3; time to the right.
        labels: User of each image, shape ``(N,)``, whole numbers in ``[0, num_users)``.
        num_users: Number of users, at least 2.
        seed: Seed of initial weights, order and crops.
        num_steps: Optimiser steps with 32 images each; None takes 20 epochs, at least 300 steps.
        on_progress: Called with (steps done, total steps).

    Returns:
        The classifier.

    Raises:
        ConfigError: If an argument is invalid.
        DataError: If a user has no image.
    """
    if num_users < 2:
        raise ConfigError(f"num_users must be at least 2, else there is nothing to tell apart; got {num_users}")
    if num_steps is not None and num_steps < 1:
        raise ConfigError(f"num_steps must be at least 1; got {num_steps}")
    check_labels(images, labels, num_users)
    missing = sorted(set(range(num_users)) - set(labels.tolist()))
    if missing:
        raise DataError(f"no images with the label {', '.join(map(str, missing))}; each user needs some to train on")
    if num_steps is None:
        num_steps = max(_MIN_STEPS, -(-_NUM_EPOCHS * len(images) // _BATCH_SIZE))
    # One thread gives a fixed order of sums, whatever the program has set.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            net = _train(_shrink(images), labels.cpu().long(), num_users, seed, num_steps, on_progress)
    finally:
        torch.set_num_threads(num_threads)
    return IdentityClassifier(net, num_users)


def confusion_matrix(labels: Tensor, predicted: Tensor, num_users: int) -> Tensor:
    """Compute the confusion matrix of a user classifier.

    Args:
        labels: True users, shape ``(N,)``, in ``[0, num_users)``.
        predicted: Predicted users, shape ``(N,)``, in the same range.
        num_users: Number K of users.

    Returns:
        Counts, shape ``(K, K)``, int64: rows are true users, columns predicted ones.
    """
    return torch.bincount(labels.long() * num_users + predicted, minlength=num_users**2).unflatten(0, (num_users, -1))


class _Net(nn.Module):
    """Four convolutions whose receptive field exceeds a second, then a mean over time for each velocity row."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_users: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        inputs = (3, *_WIDTHS[:-1])
        # Time is halved four times, velocity three times: rows stay separate, since users differ in velocity.
        strides = [(2, 2)] * 3 + [(1, 2)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=s, padding=1) for i, o, s in zip(inputs, _WIDTHS, strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, width) for width in _WIDTHS)
        self.hidden = nn.Linear(_WIDTHS[-1] * _SIDE_PX // 8, _DIM)
        self.head = nn.Linear(_DIM, num_users)

    def features(self, pixels: Tensor) -> Tensor:
        """Map pixels ``(B, 3, 64, W)``, uint8, to features ``(B, D)``."""
        x = (pixels.float() - self.mean) / self.std
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = gelu(norm(convolution(x)))
        return gelu(self.hidden(x.mean(dim=3).flatten(1)))


def _train(
    pixels: Tensor, labels: Tensor, num_users: int, seed: int, num_steps: int, on_progress: OnProgress | None
) -> _Net:
    mean, std = _mean_and_std(pixels)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = _Net(num_users, mean, std)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(num_steps):
        while len(order) < _BATCH_SIZE:
            order = torch.cat([order, torch.randperm(len(pixels), generator=generator)])
        index, order = order[:_BATCH_SIZE], order[_BATCH_SIZE:]
        logits = net.head(net.features(crop_in_time(pixels[index], generator)))
        loss = cross_entropy(logits, labels[index], label_smoothing=_LABEL_SMOOTHING)
        for group in optimizer.param_groups:
            group["lr"] = _LR * min(1, (step + 1) / _WARMUP_STEPS) * (1 - step / num_steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_progress:
            on_progress(step + 1, num_steps)
    return net.requires_grad_(False)


def _shrink(images: Tensor) -> Tensor:
    """Average images ``(N, C, H, W)`` over areas to ``(N, 3, 64, 64)``, rounded to uint8 to keep large sets small."""
    check_images(images)
    small = torch.empty(len(images), 3, _SIDE_PX, _SIDE_PX, dtype=torch.uint8)
    for first in range(0, len(images), CHUNK_IMAGES):
        part = images[first : first + CHUNK_IMAGES].cpu().float()
        small[first : first + CHUNK_IMAGES] = adaptive_avg_pool2d(part, _SIDE_PX).round().to(torch.uint8)
    return small


def _mean_and_std(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, shapes ``(3, 1, 1)``; the latter is at least 1."""
    total = torch.zeros(2, 3, dtype=torch.float64)
    for part in pixels.split(CHUNK_IMAGES):
        values = part.double()
        total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    mean, square = total / (len(pixels) * _SIDE_PX**2)
    std = (square - mean.square()).clamp(min=1).sqrt()
    return mean.float()[:, None, None], std.float()[:, None, None]


def crop_in_time(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Crop ``CROP_PX`` columns of each image ``(B, C, H, W)`` at random positions."""
    starts = torch.randint(_SIDE_PX - CROP_PX + 1, (len(pixels),), generator=generator)
    columns = starts[:, None] + torch.arange(CROP_PX)
    return pixels.gather(3, columns[:, None, None, :].expand(*pixels.shape[:3], -1))
