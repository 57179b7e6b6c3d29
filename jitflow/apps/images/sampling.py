"""Sampling of the images application: requests for classes, and decoded samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from jitflow.apps.images.class_names import safe_name
from jitflow.training.asked import Asked, ask_for_classes
from jitflow.training.module import FlowModule
from jitflow.training.samples import Samples


@dataclass
class ImageSamples(Samples):
    """Samples of image classes: ``000000_class3_seed0.png`` and so on, ``grid.png``, and ``settings.json``."""

    unit: ClassVar[str] = "images"


def ask_for_images(module: FlowModule, **asked: Any) -> Asked:
    """Build a request for images from ``labels`` and ``num``; see :func:`~jitflow.training.asked.ask_for_classes`."""
    request = replace(ask_for_classes(module, **asked), unit=ImageSamples.unit)
    classes = getattr(module, "class_names", ())
    if len(classes) == 0 or all(name == str(label) for label, name in enumerate(classes)):
        return request
    # Labels beyond the named classes keep their numbers.
    named = {place: classes[label] for place, label in enumerate(request.labels) if label < len(classes)}
    shown = {str(label): classes[label] for label in sorted(set(request.labels)) if label < len(classes)}
    return replace(
        request,
        names=[safe_name(named.get(place, "")) or name for place, name in enumerate(request.names)],
        captions=[named.get(place, caption) for place, caption in enumerate(request.captions)],
        record={**request.record, "classes": shown},
    )


def present_images(module: FlowModule, x: Tensor, asked: Asked, seeds: list[int]) -> ImageSamples:
    """Decode model-space states to images; the ``present`` of :class:`~jitflow.training.application.Application`."""
    return ImageSamples.of(module.codec.decode(x), asked, seeds)
