"""Search for the nearest training samples of generated ones, in chunks of a training set of any size."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.features import check_images
from jitflow.evaluation.kid import check_features, float64_device

TILE_ROWS = 1024
"""Samples whose distances are in memory at once; with 64 x 64 colour pixels in float64 100 MiB."""
CHUNK_IMAGES = 256
"""Images averaged over areas at once, which bounds memory."""
# Relative to a squared norm: far above float64 rounding, far below a grey level in one pixel of thousands.
_ROUNDING = 1e-12


class Neighbours(NamedTuple):
    """The nearest and the second nearest training sample of each sample.

    Attributes:
        distances: Root-mean-square differences of the vectors' components, shape ``(N, 2)``, float64; infinite where
            there are fewer training samples, and exactly 0 for equal vectors.
        indices: Places of the training samples in their order, shape ``(N, 2)``, int64.
    """

    distances: Tensor
    indices: Tensor


class NearestSearch:
    """Search for the two nearest training vectors of every sample's vector.

    Training vectors are given in chunks and not kept. Memory: the samples' vectors in their own type, and distances of
    ``TILE_ROWS`` samples to a chunk, whatever the size of the training set.

    Args:
        samples: Vectors of the samples, shape ``(N, D)``, on any device: pixels, or features of a network.
    """

    def __init__(self, samples: Tensor) -> None:
        check_features(samples, samples)
        self._device = float64_device(samples)
        self._samples = samples.to(self._device)
        # Distances lose digits to the vectors' length, so vectors are centred first.
        self._centre = torch.stack([part.double().sum(dim=0) for part in self._samples.split(TILE_ROWS)])
        self._centre = self._centre.sum(dim=0) / len(samples)
        shape = (len(samples), 2)
        self._squares = torch.full(shape, torch.inf, dtype=torch.float64, device=self._device)
        self._indices = torch.full(shape, -1, dtype=torch.int64, device=self._device)
        self.num_train = 0

    def update(self, train: Tensor) -> None:
        """Search a chunk of training vectors.

        Args:
            train: Shape ``(B, D)``.

        Raises:
            ConfigError: If the dimension is another.
            DataError: If a row holds NaN or infinity.
        """
        check_features(self._samples[:1], train)
        y = train.to(self._device).double() - self._centre
        places = torch.arange(self.num_train, self.num_train + len(y), device=self._device)
        for start in range(0, len(self._samples), TILE_ROWS):
            rows = slice(start, start + TILE_ROWS)
            x = self._samples[rows].double() - self._centre
            squares = torch.cat([self._squares[rows], squared_distances(x, y)], dim=1)
            indices = torch.cat([self._indices[rows], places.expand(len(x), -1)], dim=1)
            self._squares[rows], chosen = squares.topk(2, largest=False, sorted=True)
            self._indices[rows] = indices.gather(1, chosen)
        self.num_train += len(y)

    def neighbours(self) -> Neighbours:
        """Return the nearest two of all training vectors so far, on the CPU; raise DataError if there were none."""
        if not self.num_train:
            raise DataError("there is no training sample to search; name training data")
        # What rounding leaves of equal vectors is no distance.
        lengths = torch.cat([(part - self._centre).square().sum(dim=1) for part in self._samples.split(TILE_ROWS)])
        squares = torch.where(self._squares <= _ROUNDING * lengths[:, None], 0.0, self._squares)
        return Neighbours((squares / len(self._centre)).sqrt().cpu(), self._indices.cpu())


def nearest_of(samples: Tensor, train: Tensor) -> Neighbours:
    """Find the two nearest training vectors of every sample.

    Args:
        samples: Shape ``(N, D)``.
        train: Shape ``(M, D)``.

    Raises:
        ConfigError: If the shapes are inconsistent.
        DataError: If a row holds NaN or infinity.
    """
    check_features(samples, train)
    search = NearestSearch(samples)
    for chunk in train.split(TILE_ROWS):
        search.update(chunk)
    return search.neighbours()


def nearer_of(first: Neighbours, second: Neighbours) -> Neighbours:
    """Join the neighbours of two views of the same samples, such as images and their mirror images.

    Args:
        first: Neighbours of one view.
        second: Neighbours of the other; a training sample that is near to both counts once.
    """
    distances = torch.cat([first.distances, second.distances], dim=1)
    indices = torch.cat([first.indices, second.indices], dim=1)
    distances, order = distances.sort(dim=1, stable=True)
    indices = indices.gather(1, order)
    again = indices == indices[:, :1]
    again[:, 0] = False
    runner_up = torch.where(again, torch.inf, distances)[:, 1:].argmin(dim=1, keepdim=True) + 1
    chosen = torch.cat([torch.zeros_like(runner_up), runner_up], dim=1)
    return Neighbours(torch.where(again, torch.inf, distances).gather(1, chosen), indices.gather(1, chosen))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute squared distances of all pairs of centred vectors ``(R, D)`` and ``(C, D)``, float64: ``(R, C)``."""
    norms = x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_(min=0)


def thumbnails_of(images: Tensor, *, largest_px: int = 32) -> Tensor:
    """Average images over areas, so that their pixels can be compared and kept.

    Args:
        images: Shape ``(N, C, H, W)``, uint8.
        largest_px: Side of the thumbnails; the shorter side of the images if that is less.

    Returns:
        Square thumbnails, shape ``(N, C, S, S)``, uint8, on the CPU.
    """
    side_px = min(largest_px, *images.shape[2:])
    return pixel_vectors(images, side_px=side_px).view(len(images), images.shape[1], side_px, side_px)


def pixel_vectors(images: Tensor, *, side_px: int = 64) -> Tensor:
    """Convert images to vectors: rounded means of each channel over ``side_px x side_px`` areas.

    Args:
        images: Shape ``(N, C, H, W)``, uint8, C 1 or 3.
        side_px: Areas along each side.

    Returns:
        Vectors, shape ``(N, C * side_px**2)``, uint8, on the CPU.

    Raises:
        ConfigError: If the images' shape or type is wrong.
    """
    check_images(images)
    if side_px < 1:
        raise ConfigError(f"side_px must be at least 1; got {side_px}")
    vectors = torch.empty(len(images), images.shape[1] * side_px**2, dtype=torch.uint8)
    for first in range(0, len(images), CHUNK_IMAGES):
        part = adaptive_avg_pool2d(images[first : first + CHUNK_IMAGES].cpu().float(), side_px)
        vectors[first : first + CHUNK_IMAGES] = part.flatten(1).round().to(torch.uint8)
    return vectors
