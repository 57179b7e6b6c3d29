"""Pixels whose range cannot be meant never pass silently."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.apps.images.image_check import inspect_image
from jitflow.codec.linear import LinearCodec
from jitflow.codec.pixel import PixelCodec
from jitflow.data.image_file import open_image
from jitflow.errors import DataError
from jitflow.io.file_tree import log_once


def saved(path, array):
    Image.fromarray(array).save(path)
    return str(path)


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8),
        np.linspace(-80, 0, 64, dtype=np.float32).reshape(8, 8),
        np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8),
        np.full((8, 8), -1, np.int32),
        np.full((8, 8), 70_000, np.int32),
    ],
    ids=["0 to 1", "decibels", "floats", "negative", "32 bits"],
)
def test_images_of_unknown_range_are_refused(tmp_path, array):
    path = saved(tmp_path / "a.tif", array)
    for channels in (1, 3):
        with pytest.raises(DataError, match=r"a\.tif"):
            open_image(path, channels=channels)
    found = dict(inspect_image(tmp_path / "a.tif", min_side_px=0).findings)
    assert "floating_point" in found


def test_sixteen_bits_that_are_all_but_black_are_said(tmp_path, caplog):
    log_once.cache_clear()
    caplog.set_level(logging.INFO)
    open_image(saved(tmp_path / "black.png", np.zeros((8, 8), np.uint16)), channels=1)
    open_image(saved(tmp_path / "whole.png", np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)), channels=1)
    assert not caplog.records
    open_image(saved(tmp_path / "bytes.png", np.linspace(0, 255, 64).astype(np.uint16).reshape(8, 8)), channels=1)
    assert "16 bits" in caplog.text


@pytest.fixture(params=["pixel", "linear"])
def encode(request):
    if request.param == "pixel":
        return PixelCodec((16, 16)).encode
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return LinearCodec.fit(iter([images]), num_components=2).encode


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-80.0, 0.0), (0.0, 300.0)])
def test_batches_of_floats_that_are_no_bytes_are_refused(encode, low, high):
    batch = torch.linspace(low, high, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    with pytest.raises(DataError, match="0 to 255"):
        encode(batch)


def test_floats_from_0_to_255_and_bytes_are_taken(encode):
    batch = torch.linspace(0, 255, 2 * 3 * 16 * 16).round().reshape(2, 3, 16, 16)
    torch.testing.assert_close(encode(batch), encode(batch.to(torch.uint8)))
    encode(torch.zeros(1, 3, 16, 16))
