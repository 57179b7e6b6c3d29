"""Reading one image file, and saying in one line why it cannot be read."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from jitflow.data.errors import SampleError

# What Pillow raises on damaged files, depending on the format and the place of the damage.
UNREADABLE = (
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def open_image(path: str, *, channels: int) -> Image.Image:
    """Read and decode one image file.

    Args:
        path: The file.
        channels: 3 for colour, 1 for greyscale.

    Returns:
        The image, mode ``RGB`` or ``L``.

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    try:
        with Image.open(path) as image:
            return to_mode(image, "RGB" if channels == 3 else "L")
    except UNREADABLE as error:
        raise SampleError(f"cannot read the image {path} ({reading_error(error)}); replace or remove it") from error


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Decode an opened image into ``RGB`` or ``L``, scaling sixteen bits down to eight."""
    if image.mode.startswith("I"):
        # Pillow would cut off everything above 255 and leave a white picture.
        eight_bits = np.asarray(image, dtype=np.float64) * (255 / 65535)
        return Image.fromarray(eight_bits.clip(0, 255).round().astype(np.uint8)).convert(mode)
    return image.convert(mode)


def reading_error(error: BaseException) -> str:
    """Name what Pillow raised in a few words."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
