"""The centre crop against the function printed in the brief."""

import numpy as np
import pytest
from PIL import Image

from jitflow.data.crop import center_crop_arr, height_and_width
from jitflow.errors import ConfigError


def documented_crop(pil_image, image_size):
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return Image.fromarray(arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size])


def noise_image(width, height, mode):
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, *channels), np.uint8)
    return Image.fromarray(pixels)


SIZES = [(32, 32), (64, 64), (63, 65), (31, 200), (500, 333), (7, 9), (129, 255), (33, 32), (1, 5)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [8, 31, 32])
def test_equals_the_documented_function_bit_for_bit(size, mode, side):
    image = noise_image(*size, mode)
    expected = documented_crop(image, side)
    for given in (side, (side, side)):
        actual = center_crop_arr(image, given)
        assert actual.mode == expected.mode
        np.testing.assert_array_equal(np.array(actual), np.array(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(8, 24), (24, 8), (32, 33)])
def test_rectangle_has_the_size_asked_for(size, target):
    assert np.array(center_crop_arr(noise_image(*size, "RGB"), target)).shape == (*target, 3)


def test_rectangle_keeps_the_aspect_ratio_and_the_middle():
    # A 40 x 80 image of which only the central 40 x 20 columns are white: a (16, 8) crop sees only white.
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 30:50] = 255
    crop = np.array(center_crop_arr(Image.fromarray(pixels), (16, 8)))
    assert crop[:, 1:-1].min() == 255
    # A (16, 32) crop scales by 0.4 and so sees 8 white columns in the middle of 32.
    wide = np.array(center_crop_arr(Image.fromarray(pixels), (16, 32)))
    assert (wide[8] > 127).sum() == 8
    assert wide[8, 16] == 255
    assert wide[8, 0] == 0


@pytest.mark.parametrize("bad", [0, -4, (8,), (8, 0), (8, 8, 8), (8.0, 8)])
def test_bad_size(bad):
    with pytest.raises(ConfigError, match="img_size"):
        height_and_width(bad)
