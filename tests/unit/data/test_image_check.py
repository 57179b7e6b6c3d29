"""What is said about a file, and what files and classes say about each other."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.images.image_check import KINDS, ImageFacts, collect_findings, inspect_image
from jitflow.data.folder_scan import ImageListing


def pixels(size=(80, 70), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def upright():
    exif = Image.Exif()
    exif[0x0112] = 1
    return exif


def see_through():
    image = pixels().convert("RGBA")
    image.putalpha(7)
    return image


FILES = {
    "fine.jpg": (pixels(), {}, set()),
    "fine.png": (pixels(), {}, set()),
    "grey.png": (pixels().convert("L"), {}, set()),
    "bits.png": (pixels().convert("1"), {}, set()),
    "upright.jpg": (pixels(), {"exif": upright()}, set()),
    "turned.jpg": (pixels(), {"exif": turned()}, {"rotated"}),
    "turned.png": (pixels(), {"exif": turned()}, {"rotated"}),
    "cmyk.jpg": (pixels().convert("CMYK"), {}, {"cmyk"}),
    "palette.png": (pixels().quantize(8), {}, {"palette"}),
    "hole.png": (pixels().quantize(8), {"transparency": 3}, {"palette", "transparent"}),
    "clear.png": (see_through(), {}, {"transparent"}),
    "sixteen.png": (Image.fromarray(np.arange(80 * 70, dtype=np.uint16).reshape(70, 80)), {}, {"sixteen_bit"}),
    "narrow.png": (pixels((500, 63)), {}, {"tiny"}),
    "edge.png": (pixels((64, 64)), {}, set()),
}


@pytest.mark.parametrize("name", FILES)
def test_modes_and_sizes(tmp_path, name):
    image, options, expected = FILES[name]
    image.save(tmp_path / name, **options)
    facts = inspect_image(tmp_path / name)
    assert {kind for kind, _ in facts.findings} == expected
    assert facts.digest is not None


def png_header(width, height):
    """A picture of a few bytes that says that it is large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_damage(tmp_path, recwarn):
    pixels().save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    pixels().save(tmp_path / "x.png")
    whole_png = (tmp_path / "x.png").read_bytes()
    broken = bytearray(whole_png)
    broken[len(broken) // 2] ^= 0xFF
    cases = {
        "half.jpg": (whole[: len(whole) // 2], "truncated"),
        "half.png": (whole_png[: len(whole_png) // 2], "truncated"),
        "empty.jpg": (b"", "truncated"),
        "text.jpg": (b"this is no picture", "corrupt"),
        "broken.png": (bytes(broken), "corrupt"),
        "large.png": (png_header(10_000, 9_000), "bomb"),
        "huge.png": (png_header(100_000, 100_000), "bomb"),
        "fitting.png": (png_header(7_000, 7_000), "truncated"),
    }
    for name, (content, kind) in cases.items():
        (tmp_path / name).write_bytes(content)
        facts = inspect_image(tmp_path / name)
        assert [found for found, _ in facts.findings] == [kind], (name, facts)
        assert facts.digest is None
        assert facts.findings[0][1]
    assert not recwarn.list
    limited = inspect_image(tmp_path / "x.png", max_pixels=80 * 70 - 1)
    assert limited.findings == (("bomb", "80 x 70 px"),)
    assert inspect_image(tmp_path / "x.png", max_pixels=80 * 70).findings == ()
    (missing,) = inspect_image(tmp_path / "absent.png").findings
    assert missing[0] == "corrupt"


def test_the_hash_is_of_what_training_sees(tmp_path):
    def digest(image, name, **options):
        image.save(tmp_path / name, **options)
        return inspect_image(tmp_path / name).digest

    image = pixels()
    same = digest(image, "a.png")
    assert same == digest(image, "b.bmp") == digest(image, "c.png", compress_level=1)
    grey = image.convert("L")
    assert digest(grey, "d.png") == digest(grey.convert("RGB"), "e.png")
    other = np.array(image)
    other[-1, -1, -1] ^= 1
    assert digest(Image.fromarray(other), "f.png") != same
    # The same bytes in another shape.
    assert digest(Image.fromarray(np.array(image).reshape(80, 70, 3)), "g.png") != same


def listing(classes, labels):
    return ImageListing(
        Path("x"), tuple(classes), [f"{classes[y]}/{i}.png" for i, y in enumerate(labels)], np.array(labels)
    )


def clean(*digests):
    return [ImageFacts((), bytes([d])) for d in digests]


def collect(listings, facts, least=0):
    prefixes = {split: f"{split}/" for split in listings}
    findings = collect_findings(listings, facts, min_class_images=least, prefixes=prefixes)
    return {f.kind: [(found.file, found.seen, found.twin) for found in f.files] for f in findings}


def test_nothing_to_say():
    assert collect({"train": listing("ab", [0, 1])}, {"train": clean(1, 2)}) == {}


def test_duplicates_and_leaks():
    found = collect(
        {"train": listing("ab", [0, 0, 1, 1]), "val": listing("ab", [0, 1, 1])},
        {"train": clean(1, 1, 1, 2), "val": clean(9, 1, 9)},
    )
    assert found == {
        "leak": [("val/b/1.png", "in both", "train/a/0.png")],
        "duplicate": [
            ("train/a/1.png", "same class", "train/a/0.png"),
            ("train/b/2.png", "another class", "train/a/0.png"),
            ("val/b/2.png", "another class", "val/a/0.png"),
        ],
    }


def test_unreadable_files_are_no_duplicates():
    bad = ImageFacts((("corrupt", "not an image"),), None)
    found = collect({"train": listing("a", [0, 0])}, {"train": [bad, bad]})
    assert found == {"corrupt": [("train/a/0.png", "not an image", ""), ("train/a/1.png", "not an image", "")]}


def test_classes():
    found = collect(
        {"train": listing("abc", [0, 0, 1, 1, 1]), "val": listing("abd", [0, 1, 2])},
        {"train": clean(*range(5)), "val": clean(*range(5, 8))},
        least=3,
    )
    assert found == {
        "empty_class": [("train/c", "0 images", "")],
        "small_class": [("train/a", "2 images", "")],
        "other_classes": [("train/c", "only in train/", ""), ("val/d", "only in val/", "")],
    }


def test_findings_come_in_a_fixed_order_with_their_meaning():
    facts = [ImageFacts((("tiny", "1 x 1 px"), ("corrupt", "?")), None)]
    findings = collect_findings(
        {"train": listing("a", [0])}, {"train": facts}, min_class_images=5, prefixes={"train": ""}
    )
    assert [f.kind for f in findings] == ["corrupt", "tiny", "small_class"]
    assert [f.severity for f in findings] == ["error", "warning", "warning"]
    assert all(f.meaning == KINDS[f.kind][1] for f in findings)
