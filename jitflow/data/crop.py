"""ADM centre crop: scale an image until it covers the target size, then crop its centre."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jitflow.errors import ConfigError, check_count

_MOST_SIDE_PX = 32_768
# Of a scaled image in memory.
_MOST_PIXELS = 50_000_000


def height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of an image size given as one number or two.

    Args:
        image_size: Side of a square, or ``(height, width)``, in pixels.

    Returns:
        Height and width in pixels.

    Raises:
        ConfigError: If the size has another form or is not positive.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"img_size must be a positive int or (height, width); got {image_size!r}")
    for side in sides:
        check_count("img_size", side, most=_MOST_SIDE_PX)
    return sides


def center_crop_arr(pil_image: Image.Image, image_size: int | tuple[int, int]) -> Image.Image:
    """Scale an image, keeping its aspect ratio, and crop its centre.

    Halving with a box filter first avoids the aliasing of a single large bicubic step.

    Args:
        pil_image: Any image whose mode numpy can hold, such as ``RGB`` or ``L``.
        image_size: Side of a square, or ``(height, width)``, in pixels.

    Returns:
        Image of exactly that size, same mode.

    References:
        Dhariwal & Nichol 2021, arXiv:2105.05233 (ADM), whose preprocessing ImageNet FIDs assume.
    """
    height, width = height_and_width(image_size)
    while pil_image.width >= 2 * width and pil_image.height >= 2 * height:
        pil_image = pil_image.resize((pil_image.width // 2, pil_image.height // 2), resample=Image.Resampling.BOX)

    # The larger of the two ratios covers the target in both directions.
    scale = max(width / pil_image.width, height / pil_image.height)
    covering = round(pil_image.width * scale), round(pil_image.height * scale)
    if covering[0] * covering[1] > _MOST_PIXELS:
        # Of an image of 1 x 30000 pixels only the middle is scaled.
        across, down = pil_image.width / covering[0], pil_image.height / covering[1]
        left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return pil_image.resize((width, height), resample=Image.Resampling.BICUBIC, box=box)
    pixels = np.array(pil_image.resize(covering, resample=Image.Resampling.BICUBIC))

    top = (pixels.shape[0] - height) // 2
    left = (pixels.shape[1] - width) // 2
    return Image.fromarray(pixels[top : top + height, left : left + width])
