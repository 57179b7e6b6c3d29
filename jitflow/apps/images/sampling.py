"""Sampling of the images application: requests for classes, and decoded samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from jitflow.errors import ConfigError
from jitflow.evaluation.reference import ImageFiles
from jitflow.training.asked import Asked, read_labels
from jitflow.training.asked_conditions import ask_for_classes
from jitflow.training.module import FlowModule
from jitflow.training.samples import Samples


@dataclass
class ImageSamples(Samples):
    """Samples of image classes: ``000000_cat_seed0.png`` and so on, ``grid.png``, and ``settings.json``."""

    unit: ClassVar[str] = "images"


def ask_for_images(module: FlowModule, *, source: str | Path | Tensor | None = None, **asked: Any) -> Asked:
    """Build a request for images.

    Args:
        module: The model.
        source: For a model of transport: images to start from, a folder or pixels ``(N, C, H, W)``, uint8.
        asked: ``labels`` and ``num`` of :func:`~jitflow.training.asked_conditions.ask_for_classes`;
            with a source one label for all images (by default "any class") or one for each.

    Returns:
        The request.

    Raises:
        ConfigError: If a model of transport gets no source, or another model gets one; or as for classes.
    """
    module.check_start(source is not None)
    if source is None:
        return replace(ask_for_classes(module, **asked), unit=ImageSamples.unit)
    if not module.transports:
        raise ConfigError("source is for models that were trained with a source_path; this one starts from noise")
    if asked.pop("num", None) not in (None, 1):
        raise ConfigError("each image of the source has one result; leave num, the samples of each, at 1")
    pixels = source if isinstance(source, Tensor) else _read_folder(source, module)
    labels = asked.pop("labels", None)
    chosen = read_labels([module.num_classes] if labels is None else labels, module)
    if len(chosen) not in (1, len(pixels)):
        raise ConfigError(f"{len(chosen)} labels were given for {len(pixels)} images; give one, or one for each")
    found = ask_for_classes(module, labels=chosen * (len(pixels) // len(chosen)), **asked)
    return replace(found, unit=ImageSamples.unit, origin=module.codec.encode(pixels))


def _read_folder(folder: str | Path, module: FlowModule) -> Tensor:
    channels, height, width = module.codec.shape
    files = ImageFiles(folder, (height, width), channels)
    return torch.stack([files[i] for i in range(len(files))])


def present_images(module: FlowModule, x: Tensor, asked: Asked, seeds: list[int]) -> ImageSamples:
    """Decode model-space states to images; the ``present`` of :class:`~jitflow.training.application.Application`."""
    return ImageSamples.of(module.codec.decode(x), asked, seeds)
