"""Fast JPEG decoder and centre crop, whose pixels differ slightly from the exact ones.

The file is decoded and scaled by torch's vectorised kernels for bytes. They compute the same filters as Pillow with
different rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from jitflow.data.crop import center_crop_arr
from jitflow.data.image_file import UNREADABLE, decoder_of, open_image

_MOST_TIMES_LONGER = 50


def load_crop_fast(path: str, *, img_size: tuple[int, int]) -> Tensor:
    """Read the centre crop of an image file, in colour.

    Args:
        path: The file. Anything but a plain JPEG (another format, CMYK, damaged) is decoded exactly.
        img_size: Height and width in pixels.

    Returns:
        Pixels, shape ``(3, H, W)``, uint8; from a JPEG they differ from the exact crop by at most 3.

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    pixels = decode_colours(path)
    if pixels is None:
        crop = center_crop_arr(open_image(path, channels=3), img_size)
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1)
    return crop_tensor(pixels, img_size)


def crop_tensor(pixels: Tensor, img_size: tuple[int, int]) -> Tensor:
    """Scale an image and crop its centre, as :func:`jitflow.data.crop.center_crop_arr` does.

    Args:
        pixels: Shape ``(3, h, w)``, uint8.
        img_size: Height and width of the crop in pixels.

    Returns:
        The crop, shape ``(3, H, W)``, uint8.
    """
    height, width = img_size
    image = pixels[None]
    while image.shape[3] >= 2 * width and image.shape[2] >= 2 * height:
        image = _halve(image)
    scale = max(width / image.shape[3], height / image.shape[2])
    covering = round(image.shape[2] * scale), round(image.shape[3] * scale)
    if covering != tuple(image.shape[2:]):
        image = interpolate(image, size=covering, mode="bicubic", antialias=True, align_corners=False)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return image[0, :, top : top + height, left : left + width].contiguous()


def decode_colours(path: str) -> Tensor | None:
    """Decode a JPEG file to pixels ``(3, h, w)``, uint8; None if the result would differ from Pillow's."""
    try:
        with decoder_of(path) as image:
            # A narrow image is cropped before it is scaled, which is left to the exact path.
            if image.format != "JPEG" or max(image.size) > _MOST_TIMES_LONGER * min(image.size):
                return None
        data = read_file(path)
        pixels = decode_jpeg(data, mode=ImageReadMode.UNCHANGED)
    except UNREADABLE:
        # The exact decoder says what is wrong.
        return None
    if pixels.shape[0] == 1:
        return pixels.expand(3, -1, -1)
    return pixels if pixels.shape[0] == 3 else None


def _halve(image: Tensor) -> Tensor:
    """Halve an image with a box filter."""
    height, width = image.shape[2] // 2, image.shape[3] // 2
    if image.shape[2] == 2 * height and image.shape[3] == 2 * width:
        # At exactly one half, bilinear interpolation samples the middle of four pixels, which is their mean.
        return interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
    # With an odd side one box has three pixels; Pillow's filter chooses which.
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
