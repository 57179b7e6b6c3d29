"""The fast way to the crop: nearly the exact pixels, and the exact way for all that is no plain JPEG."""

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.apps.images import fast_decoder
from jitflow.apps.images.fast_decoder import load_crop_fast
from jitflow.data.crop import center_crop_arr
from jitflow.data.image_file import open_image
from jitflow.errors import DataError


def noise(size, mode="RGB", seed=0):
    """The hardest picture: neighbouring pixels have nothing in common, so that any shift shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def exact(path, size):
    crop = np.array(center_crop_arr(open_image(str(path), channels=3), size))
    return torch.from_numpy(crop).permute(2, 0, 1)


SIZES = [(50, 40), (51, 41), (200, 131), (129, 201), (128, 130), (400, 64), (32, 32), (20, 15), (97, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", 0), ("RGB", 2), ("L", 0)])
@pytest.mark.parametrize("target", [(32, 32), (24, 40)])
def test_differs_by_at_most_three(tmp_path, size, mode, subsampling, target):
    path = tmp_path / "x.jpg"
    noise(size, mode).save(path, quality=95, subsampling=subsampling)
    assert fast_decoder.decode_colours(str(path)) is not None
    fast = load_crop_fast(str(path), img_size=target)
    assert fast.shape == (3, *target)
    assert fast.dtype == torch.uint8
    assert fast.is_contiguous()
    assert (fast.int() - exact(path, target).int()).abs().max() <= 3


@pytest.mark.parametrize(
    ("name", "mode"), [("x.png", "RGB"), ("x.png", "P"), ("x.jpg", "CMYK"), ("x.webp", "RGB"), ("x.png", "L")]
)
def test_other_files_take_the_exact_way(tmp_path, name, mode):
    path = tmp_path / name
    noise((70, 50), mode).save(path)
    assert fast_decoder.decode_colours(str(path)) is None
    assert torch.equal(load_crop_fast(str(path), img_size=(32, 32)), exact(path, 32))


def test_the_exif_turn_is_ignored_as_it_is_by_the_exact_way(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((70, 50)).save(tmp_path / "x.jpg", exif=exif)
    fast = load_crop_fast(str(tmp_path / "x.jpg"), img_size=(32, 32))
    assert (fast.int() - exact(tmp_path / "x.jpg", 32).int()).abs().max() <= 3


@pytest.mark.parametrize("keep", [0, 2, 600, -2000])
def test_damaged_files_are_named(tmp_path, keep):
    path = tmp_path / "x.jpg"
    noise((170, 150)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot read the image .*x\.jpg"):
        load_crop_fast(str(path), img_size=(32, 32))
