"""Sampling of the images application: requests for classes, and decoded samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from jitflow.training.asked import Asked, ask_for_classes
from jitflow.training.module import FlowModule
from jitflow.training.samples import Samples


@dataclass
class ImageSamples(Samples):
    """Samples of image classes: ``000000_cat_seed0.png`` and so on, ``grid.png``, and ``settings.json``."""

    unit: ClassVar[str] = "images"


def ask_for_images(module: FlowModule, **asked: Any) -> Asked:
    """Build a request for images from ``labels`` and ``num``; see :func:`~jitflow.training.asked.ask_for_classes`."""
    return replace(ask_for_classes(module, **asked), unit=ImageSamples.unit)


def present_images(module: FlowModule, x: Tensor, asked: Asked, seeds: list[int]) -> ImageSamples:
    """Decode model-space states to images; the ``present`` of :class:`~jitflow.training.application.Application`."""
    return ImageSamples.of(module.codec.decode(x), asked, seeds)
