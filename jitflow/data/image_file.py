"""Read an image file, with one-line errors for unreadable ones."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from jitflow.data.errors import SampleError
from jitflow.io.file_tree import log_once
from jitflow.io.mistaken_file import describe_mistaken_file

# Errors that Pillow raises for damaged files, depending on the format and the damage.
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


class PixelRangeError(ValueError):
    """An image file whose pixels are not in the range of 8 or 16 bits."""


def open_image(path: str, *, channels: int) -> Image.Image:
    """Read and decode an image file.

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
        mistaken = describe_mistaken_file(path)
        if mistaken:
            raise SampleError(f"cannot read the image {path}: it {mistaken}") from error
        raise SampleError(f"cannot read the image {path} ({reading_error(error)}); replace or remove it") from error


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an opened image to mode ``RGB`` or ``L``, scaling 16 bits down to 8."""
    if image.mode == "F":
        low, high = image.getextrema()
        raise PixelRangeError(f"floating-point pixels from {low:.4g} to {high:.4g}; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        numbers = np.asarray(image, dtype=np.float64)
        low, high = numbers.min(initial=0), numbers.max(initial=0)
        if low < 0 or high > 65535:
            raise PixelRangeError(f"pixels from {low:.0f} to {high:.0f}, not of 16 bits; save it with 8 or 16 bits")
        if 0 < high <= 255:
            # Probably 8-bit values stored as 16 bits; such an image is almost black.
            log_once("an image of 16 bits has no pixel above 255 and becomes black; save such images with 8 bits")
        # Pillow would clip everything above 255 and give a white image.
        eight_bits = numbers * (255 / 65535)
        return Image.fromarray(eight_bits.clip(0, 255).round().astype(np.uint8)).convert(mode)
    return image.convert(mode)


def reading_error(error: BaseException) -> str:
    """Describe an error of Pillow about an image file in a few words."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
