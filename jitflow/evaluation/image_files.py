"""Files of the generated images of an evaluation: a PNG each, or one array for ADM's evaluator."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from jitflow import pictures
from jitflow.evaluation.plan import Plan
from jitflow.io.files import atomic_path


def save_png(folder: Path, parts: Iterable[Tensor], plan: Plan, names: Sequence[str]) -> None:
    """Write every image as a PNG that is named by index, class and seed.

    Args:
        folder: Target folder; created if missing.
        parts: The images in order, shape ``(N, C, H, W)`` each, uint8.
        plan: The evaluation plan.
        names: Part of the file name for each class, such as ``cat`` or ``class3``.
    """
    classes = plan.classes(len(names))
    for index, pixels in enumerate(image for part in parts for image in part.numpy()):
        name = f"{index:06d}_{names[classes[index]]}_seed{plan.seed + index}.png"
        pictures.save_image(pictures.to_image(pixels), folder / name)


def save_npz(path: Path, parts: Iterable[Tensor], plan: Plan, num_classes: int) -> None:
    """Write all images and labels in the format of ADM's evaluator: ``arr_0`` (uint8, NHWC) and ``arr_1``.

    Args:
        path: The ``.npz`` file.
        parts: The images in order, shape ``(N, C, H, W)`` each, uint8.
        plan: The evaluation plan.
        num_classes: Classes of the model.
    """
    pixels = iter(parts)
    first = next(pixels)
    shape = (plan.num_images, *first.shape[2:], 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # Part by part, since 50,000 images do not fit into memory beside the model.
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for part in chain([first], pixels):
                colour = part.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
                member.write(colour.contiguous().numpy().tobytes())
        with archive.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, np.array(plan.classes(num_classes)))
