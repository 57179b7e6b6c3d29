"""Unusual, damaged and vanished images in a folder: read, or named in one line."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.apps.images.data import JiTDataModule
from jitflow.errors import DataError


def pixels(height=20, width=24):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def bomb():
    """A PNG of a few hundred bytes that says it has ten gigapixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9000))) + chunk(b"IEND", b"")
    )


def folder_of(tmp_path, name, write):
    for i in range(4):
        path = tmp_path / "train" / "a" / f"good{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels()).save(path)
    write(tmp_path / "train" / "a" / name)
    data = JiTDataModule(str(tmp_path), img_size=16, batch_size=5, num_workers=0, random_flip=False)
    data.setup("fit")
    return data


def save(mode, **how):
    def write(path):
        image = Image.fromarray(pixels())
        image = Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(path, **how)

    return write


def exif_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.jpg", save("CMYK")),
        ("x.png", save("I;16")),
        ("x.png", save("P")),
        ("x.png", save("LA")),
        ("x.jpg", exif_rotated),
        ("x.png", lambda path: Image.fromarray(pixels(1, 1)).save(path)),
    ],
    ids=["CMYK", "16 bits", "palette", "alpha", "EXIF-rotated", "one pixel"],
)
def test_unusual_images_are_read(tmp_path, name, write):
    (batch,) = list(folder_of(tmp_path, name, write).train_dataloader())
    assert batch.images.shape == (5, 3, 16, 16) and batch.images.dtype == torch.uint8


def truncated(path):
    Image.fromarray(pixels(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.png", truncated),
        ("x.png", lambda path: path.write_bytes(b"no image at all")),
        ("x.png", lambda path: path.write_bytes(b"")),
        ("x.png", lambda path: path.write_bytes(bomb())),
        ("x.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))),
    ],
    ids=["truncated", "other content", "empty", "decompression bomb", "corrupt"],
)
def test_a_bad_image_is_one_line_that_names_it(tmp_path, name, write):
    data = folder_of(tmp_path, name, write)
    with pytest.raises(DataError) as caught:
        list(data.train_dataloader())
    text = str(caught.value)
    assert str(tmp_path / "train" / "a" / name) in text and "\n" not in text


def test_a_file_that_vanishes_is_named(tmp_path):
    data = folder_of(tmp_path, "x.png", save("RGB"))
    loader = data.train_dataloader()
    (tmp_path / "train" / "a" / "x.png").unlink()
    with pytest.raises(DataError, match=r"x\.png"):
        list(loader)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_a_file_without_permission_is_named(tmp_path):
    data = folder_of(tmp_path, "x.png", save("RGB"))
    (tmp_path / "train" / "a" / "x.png").chmod(0)
    with pytest.raises(DataError, match=r"x\.png"):
        list(data.train_dataloader())
