"""Copies of training images among generated ones: the nearest training image in pixels and in every feature space.

Pixels are compared as thumbnails of at most 32 x 32 pixels, and mirrored too, since trainings mirror their images.
Memory: the thumbnails of the training images (3 KiB for a colour image: 3.9 GB for ImageNet), beside the features that
the other scores hold too. The search itself takes chunks of them (:class:`jitflow.evaluation.nearest.NearestSearch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jitflow.evaluation.memorisation import Copies, copies_by_ratio, draw_pairs
from jitflow.evaluation.nearest import Neighbours, nearer_of, nearest_of
from jitflow.evaluation.parts import EvaluationParts
from jitflow.evaluation.reference import Reference
from jitflow.io.file_tree import log_once
from jitflow.io.progress import meter
from jitflow.model import Model
from jitflow.training.class_names import safe_name

THUMBNAILS = "thumbnails"
"""Name of the space of pixels in reports."""


@dataclass(frozen=True)
class ImageCopies:
    """Copies of training images in one space.

    Attributes:
        copies: Which generated images are copies.
        nearest_train: The two nearest training images of each.
        validation: Which validation images would be copies by the same rule; None without any. It is the share to
            expect by chance.
    """

    copies: Copies
    nearest_train: Neighbours
    validation: Copies | None = None


def find_copies(
    parts: EvaluationParts,
    real: Mapping[str, Reference],
    held_out: Mapping[str, Reference],
    model: Model,
    folder: Path,
) -> dict[str, ImageCopies]:
    """Find the generated images that are copies of training images, and draw the ten nearest pairs of each space.

    Args:
        parts: Features and thumbnails of the generated images.
        real: The training images under each extractor.
        held_out: Validation images under each extractor; may be empty.
        model: The model; the search runs on its device.
        folder: Folder of ``nearest_SPACE.png``: generated images above their nearest training images.

    Returns:
        The copies in each feature space, and in ``thumbnails``; empty, with a line that says so, if the reference
        holds statistics.
    """
    first, device = next(iter(real.values())), model.module.device
    if first.thumbnails is None:
        log_once(
            "copies of training images are not looked for: --reference names statistics, not the images themselves"
        )
        return {}
    found = {}
    with meter("looking for copies", len(real) + 1, unit="spaces") as progress:
        for name, reference in real.items():
            validation = held_out[name].features if name in held_out else None
            found[name] = _in_space(nearest_of, parts.read(f"features/{name}"), reference.features, validation, device)
            progress.update(len(found))
        validation = next(iter(held_out.values())).thumbnails if held_out else None
        found[THUMBNAILS] = _in_space(_or_mirrored, parts.read(THUMBNAILS), first.thumbnails, validation, device)
        progress.update(len(found))
    for name, copies in found.items():
        _draw(folder / f"nearest_{safe_name(name)}.png", copies, parts, model, first)
    return found


def _in_space(
    search: Callable[[Tensor, Tensor], Neighbours],
    samples: Tensor | None,
    train: Tensor | None,
    validation: Tensor | None,
    device: torch.device,
) -> ImageCopies:
    """Find the copies in one space, and those that validation images would be."""
    assert samples is not None and train is not None
    near = search(samples.to(device), train)
    expected = None if validation is None else copies_by_ratio(search(validation.to(device), train))
    return ImageCopies(copies_by_ratio(near), near, expected)


def _or_mirrored(samples: Tensor, train: Tensor) -> Neighbours:
    """Find the nearest training thumbnails of thumbnails ``(N, C, S, S)`` and of their mirror images."""
    flat = train.flatten(1)
    return nearer_of(nearest_of(samples.flatten(1), flat), nearest_of(samples.flip(-1).flatten(1), flat))


def _draw(path: Path, found: ImageCopies, parts: EvaluationParts, model: Model, real: Reference) -> None:
    """Draw the generated images nearest to training images, which the model generates again, above those."""
    assert real.images is not None
    chosen = found.copies.nearest()
    samples = parts.plan.part(model, chosen).pixels
    train = real.images.pick(found.nearest_train.indices[chosen, 0].tolist())
    draw_pairs(path, samples, train, [f"ratio {found.copies.nearness[i]:.2f}" for i in chosen])
