"""How a model of images is asked for classes, and what becomes of what it draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from jitflow.training.asked import Asked, ask_for_classes
from jitflow.training.module import FlowModule
from jitflow.training.samples import Samples


@dataclass
class ImageSamples(Samples):
    """Images of classes: ``000000_class3_seed0.png`` and so on, ``grid.png``, and ``settings.json``."""

    unit: ClassVar[str] = "images"


def ask_for_images(module: FlowModule, **asked: Any) -> Asked:
    """Ask a model for images, by ``labels`` and ``num`` as :func:`~jitflow.training.asked.ask_for_classes` does."""
    return replace(ask_for_classes(module, **asked), unit=ImageSamples.unit)


def present_images(module: FlowModule, x: Tensor, asked: Asked, seeds: list[int]) -> ImageSamples:
    """Decode states to images; the presenter of :class:`~jitflow.training.application.Application`."""
    return ImageSamples.of(module.codec.decode(x), asked, seeds)
