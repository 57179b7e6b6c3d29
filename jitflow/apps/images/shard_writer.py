"""Write shards: files of a few thousand centre-cropped images each, ready for training.

A shard is a bit-exact function of its source files alone, however often its preparation was interrupted. This module
does not import torch, which keeps worker processes light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from jitflow.apps.images.shard_record import FORMAT, VERSION, ShardRecord
from jitflow.data.crop import center_crop_arr, height_and_width
from jitflow.data.folder_scan import ImageListing
from jitflow.data.image_file import open_image
from jitflow.errors import DataError
from jitflow.io.array_file import ArrayFileWriter, Layout
from jitflow.io.files import file_checksum

_MAX_IMAGES = 4096
_MAX_BYTES = 512 << 20
# One page, so that arrays are aligned with disk blocks.
_HEADER_BYTES = 4096


@dataclass(frozen=True)
class ShardTask:
    """Task of a worker: a shard to write.

    Args:
        file: Name of the shard.
        folder: Folder of the source files.
        sources: Paths of the source files below it.
        labels: Their labels.
        img_size: Height and width in pixels.
        channels: 3 for colour, 1 for greyscale.
        target: Folder of the shards.
        workplace: Folder, on the same disk, in which this run builds its shards.
        skip_damaged: Whether to skip unreadable files instead of stopping.
    """

    file: str
    folder: Path
    sources: tuple[str, ...]
    labels: tuple[int, ...]
    img_size: tuple[int, int]
    channels: int
    target: Path
    workplace: Path
    skip_damaged: bool


def images_per_shard(img_size: int | tuple[int, int], channels: int) -> int:
    """Return the number of images in a shard: at most 4096, and at most 512 MiB."""
    height, width = height_and_width(img_size)
    return max(1, min(_MAX_IMAGES, _MAX_BYTES // (height * width * channels)))


def shard_ranges(split: str, num_images: int, size: int) -> list[tuple[str, range]]:
    """Divide a split into shards: the name of each, and the range of its images in the listing."""
    count = -(-num_images // size)
    return [
        (f"{split}-{i:05d}-of-{count:05d}.safetensors", range(i * size, min((i + 1) * size, num_images)))
        for i in range(count)
    ]


def shard_tasks(
    split: str,
    listing: ImageListing,
    size: int,
    *,
    done: Sequence[str],
    img_size: tuple[int, int],
    channels: int,
    target: Path,
    workplace: Path,
    skip_damaged: bool,
) -> Iterator[ShardTask]:
    """Yield the tasks of a split's missing shards.

    Args:
        split: ``train`` or ``val``.
        listing: Its images.
        size: Source files in a shard.
        done: Names of the existing shards.
        img_size: Height and width in pixels.
        channels: 3 for colour, 1 for greyscale.
        target: Folder of the shards.
        workplace: Folder, on the same disk, in which this run builds its shards.
        skip_damaged: Whether to skip unreadable files.

    Yields:
        Tasks for :func:`write_shard`.
    """
    finished = set(done)
    for file, indices in shard_ranges(split, len(listing), size):
        if file not in finished:
            part = slice(indices.start, indices.stop)
            yield ShardTask(
                file,
                listing.folder,
                tuple(listing.files[part]),
                tuple(listing.labels[part].tolist()),
                img_size,
                channels,
                target,
                workplace,
                skip_damaged,
            )


def write_shard(task: ShardTask, on_image: Callable[[], None]) -> ShardRecord:
    """Decode and crop the images of a shard and write it atomically.

    Args:
        task: The shard to write.
        on_image: Called after each source file; an exception in it stops the work.

    Returns:
        The shard's manifest record.

    Raises:
        DataError: If a file is unreadable and must not be skipped.
        ConfigError: If the disk is full.
    """
    kept: list[int] = []
    skipped = []
    writer = ArrayFileWriter.create(
        task.workplace / task.file, _layout(task, range(len(task.sources))), _METADATA, header_bytes=_HEADER_BYTES
    )
    pixels = writer.arrays["images"]
    for index, source in enumerate(task.sources):
        try:
            image = open_image(str(task.folder / source), channels=task.channels)
            pixels[len(kept)] = channels_first(center_crop_arr(image, task.img_size))
        except DataError as error:
            if not task.skip_damaged:
                raise DataError(f"{error}, or pass --on_error skip") from None
            skipped.append({"file": source, "label": task.labels[index], "reason": str(error)})
        else:
            kept.append(index)
        on_image()
    if skipped:
        writer = _shrink(task, writer, kept)
    names = [task.sources[index].encode("utf-8", "surrogateescape") for index in kept]
    writer.arrays["labels"][:] = [task.labels[index] for index in kept]
    writer.arrays["name_ends"][:] = np.cumsum([len(name) for name in names], dtype=np.int64)
    writer.arrays["name_bytes"][:] = np.frombuffer(b"".join(names), np.uint8)
    whole = writer.finish()
    record = ShardRecord(task.file, len(kept), whole.stat().st_size, file_checksum(whole), tuple(skipped))
    whole.replace(task.target / task.file)
    return record


def channels_first(image: Image.Image) -> np.ndarray:
    """Return the pixels of an ``RGB`` or ``L`` image, shape ``(C, H, W)``, uint8."""
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def decoder_name() -> str:
    """Return the versions of the decoding libraries, on which pixels can depend."""
    return f"Pillow {pillow_version}, JPEG library {features.version('libjpeg_turbo') or features.version('jpg')}"


_METADATA = {"format": FORMAT, "version": str(VERSION)}


def _layout(task: ShardTask, kept: Sequence[int]) -> Layout:
    """Return the layout of a shard's arrays: pixels, labels, and the concatenated names of source files."""
    name_bytes = sum(len(task.sources[index].encode("utf-8", "surrogateescape")) for index in kept)
    return {
        "images": ((len(kept), task.channels, *task.img_size), "uint8"),
        "labels": ((len(kept),), "int64"),
        "name_ends": ((len(kept),), "int64"),
        "name_bytes": ((name_bytes,), "uint8"),
    }


def _shrink(task: ShardTask, full: ArrayFileWriter, kept: Sequence[int]) -> ArrayFileWriter:
    """Copy the images to a file without space for the skipped ones."""
    path = task.workplace / f"short-{task.file}"
    writer = ArrayFileWriter.create(path, _layout(task, kept), _METADATA, header_bytes=_HEADER_BYTES)
    writer.arrays["images"][:] = full.arrays["images"][: len(kept)]
    full.abandon()
    return writer
