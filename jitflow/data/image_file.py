"""Read an image file, with one-line errors for unreadable ones."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Those of the suffixes that are listed; Pillow would start another program for some (EPS). The usual ones come first.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "DIB")
# Pillow takes up to 8 bytes for a pixel of the decoded and the converted image.
_MOST_PIXELS = 50_000_000
# A photograph has about 2, a scan of a page 30; a file of one colour has thousands.
_MOST_PIXELS_PER_BYTE = 16
_ROWS_AT_ONCE = 256


@contextmanager
def decoder_of(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file: read its header, and check its size before anything is decoded.

    Args:
        path: The file.

    Yields:
        The image, not decoded yet.

    Raises:
        Exception: One of :data:`UNREADABLE`, if the file is no image of a known format, or has more pixels than
            memory or its own size justify.
    """
    with Image.open(path, formats=_FORMATS) as image:
        num_pixels, num_bytes = image.width * image.height, os.stat(path).st_size  # noqa: PTH116 (called for each image)
        if num_pixels > max(_MOST_PIXELS, _MOST_PIXELS_PER_BYTE * num_bytes):
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels in {num_bytes:,} bytes")
        yield image


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
        with decoder_of(path) as image:
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
        numbers = np.asarray(image)
        low, high = numbers.min(initial=0), numbers.max(initial=0)
        if low < 0 or high > 65535:
            raise PixelRangeError(f"pixels from {low:.0f} to {high:.0f}, not of 16 bits; save it with 8 or 16 bits")
        if 0 < high <= 255:
            # Probably 8-bit values stored as 16 bits; such an image is almost black.
            log_once("an image of 16 bits has no pixel above 255 and becomes black; save such images with 8 bits")
        # Pillow would clip everything above 255 and give a white image.
        pixels = np.empty(numbers.shape, np.uint8)
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            pixels[rows] = (numbers[rows].astype(np.float64) * (255 / 65535)).clip(0, 255).round()
        return Image.fromarray(pixels).convert(mode)
    return image.convert(mode)


def reading_error(error: BaseException) -> str:
    """Describe an error of Pillow about an image file in a few words."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
