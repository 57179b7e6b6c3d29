"""Samples of a model, with labels, seeds, captions and settings that reproduce them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from jitflow import pictures
from jitflow.io.files import write_json
from jitflow.training.asked import Asked

if TYPE_CHECKING:
    from typing_extensions import Self

    from jitflow.training.module import FlowModule

GRID_NAME = "grid.png"
_WIDEST_ROW, _COLUMNS = 16, 8


@dataclass
class Samples:
    """Samples as images, with labels, seeds and names. An application may derive its own class.

    Attributes:
        pixels: Shape ``(N, C, H, W)``, uint8, on the CPU.
        labels: Label of each sample.
        seeds: Seed of each sample.
        names: Part of each sample's file name, such as ``cat`` or ``class3``; empty strings if there is none.
        captions: Caption of each sample, such as ``class 3``; empty strings if there is none.
        settings: Sampling settings, plain values.
        conditions: Values of each sample's named conditions by name; empty for a model without any.
        texts: Text of each sample, for an application of text; else empty.
        unit: Name of the samples in the plural, such as ``images``.
        grid_name: File of the grid of all samples.
        record_name: File of the settings.
    """

    pixels: Tensor
    labels: list[int]
    seeds: list[int]
    names: list[str]
    captions: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    conditions: list[Mapping[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    unit: ClassVar[str] = "samples"
    # Every application's grid has a name that ends so: the evaluation of a folder of samples ignores it.
    grid_name: ClassVar[str] = GRID_NAME
    record_name: ClassVar[str] = "settings.json"

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(cls, pixels: Tensor, asked: Asked, seeds: list[int]) -> Self:
        """Build samples, without settings, from pixels and their request.

        Args:
            pixels: Shape ``(B, C, H, W)``, uint8, on any device.
            asked: The request for these samples.
            seeds: Seed of each.
        """
        named = list(asked.names), list(asked.captions)
        return cls(pixels.cpu(), asked.labels, seeds, *named, conditions=list(asked.conditions))

    @classmethod
    def join(cls, parts: Sequence[Self], settings: dict[str, Any]) -> Self:
        """Concatenate the samples of several batches.

        Args:
            parts: Samples of this class, at least one.
            settings: Sampling settings of all batches.
        """
        joined: dict[str, Any] = {"settings": settings}
        for name in (f.name for f in fields(cls) if f.name != "settings"):
            values = [getattr(part, name) for part in parts]
            joined[name] = torch.cat(values) if isinstance(values[0], Tensor) else [v for part in values for v in part]
        return cls(**joined)

    def images(self) -> list[Image.Image]:
        """Return the images as PIL images."""
        return [pictures.to_image(p) for p in self.pixels.numpy()]

    def grid(self, *, columns: int | None = None) -> Image.Image:
        """Arrange the images in a grid with captions, with one row per label if labels repeat."""
        if columns is None:
            same = next((i for i, y in enumerate(self.labels) if y != self.labels[0]), len(self.labels))
            columns = same if 1 < same <= _WIDEST_ROW else min(_COLUMNS, len(self))
        return pictures.grid(
            self.pixels.numpy(),
            columns=columns,
            scale=pictures.display_scale(self.pixels.shape[-1]),
            captions=drawable_captions(self.captions, self.labels),
        )

    def sheet(self) -> Image.Image:
        """Draw all images as one picture for people: the grid; an application may add axes."""
        return self.grid()

    def file_names(self) -> list[str]:
        """Return the file name of each image, from its index, name and seed."""
        named = zip(self.names, self.seeds, strict=True)
        return [
            "_".join(filter(None, (f"{i:06d}", name, f"seed{seed}"))) + ".png" for i, (name, seed) in enumerate(named)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write one PNG per image, ``grid.png`` and ``settings.json``; return the folder.

        Args:
            folder: Output folder, created if missing.
        """
        folder = self._save_images(folder)
        listed = zip(self.file_names(), self.labels, self.seeds, strict=True)
        records: list[dict[str, Any]] = [{"file": name, "label": y, "seed": s} for name, y, s in listed]
        for entry, conditions in zip(records, self.conditions, strict=False):
            entry["conditions"] = dict(conditions)
        write_json(folder / self.record_name, {**self.settings, "grid": self.grid_name, self.unit: records})
        return folder

    def _save_images(self, folder: str | Path) -> Path:
        """Write one PNG per image, and the grid of all images."""
        folder = Path(folder)
        for name, image in zip(self.file_names(), self.images(), strict=True):
            pictures.save_image(image, folder / name)
        pictures.save_image(self.grid(), folder / self.grid_name)
        return folder


def drawable_captions(captions: Sequence[str], labels: Sequence[int]) -> list[str]:
    """Return captions for a grid of images: the number of the class where the font lacks letters of its name.

    Args:
        captions: Caption of each image.
        labels: Label of each image.
    """
    return [c if pictures.can_draw(c) else f"class {y}" for c, y in zip(captions, labels, strict=True)]


def present_pixels(module: FlowModule, x: Tensor, asked: Asked, seeds: list[int]) -> Samples:
    """Decode final states of sampling to image samples.

    Args:
        module: The model.
        x: States in the model space, shape ``(B, *S)``.
        asked: The request for these samples.
        seeds: Seed of each.

    Returns:
        The samples, without settings.
    """
    return Samples.of(module.codec.decode(x), asked, seeds)
