"""Finding pictures of users: both layouts, both ways to hold some out, and what each mess says."""

import logging
import re

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.microdoppler.user_images import find_user_images, read_user_image
from jitflow.errors import ConfigError, DataError, MissingFileError


def touch(path, content=b"not looked at"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def class_folders(root, users, *, splits=("train", "val"), counts=(4, 2)):
    for split, count in zip(splits, counts, strict=True):
        for user in users:
            for i in range(count):
                touch(root / split / user / f"{user}_{i:03d}.png", f"{split}{user}{i}".encode())


def names(images):
    return [image.path.name for image in images]


@pytest.mark.parametrize("pattern", ["ID_{}", "user{:02d}", "{}", "Walker {}"])
def test_class_folders(tmp_path, pattern):
    class_folders(tmp_path, [pattern.format(i) for i in (1, 2, 10)])
    found = find_user_images(tmp_path)
    assert found.user_ids == (1, 2, 10)
    assert [(i.user_id, i.label) for i in found.val] == [(1, 0)] * 2 + [(2, 1)] * 2 + [(10, 2)] * 2
    assert len(found.train) == 12
    assert all(image.path.parts[-3] == "train" for image in found.train)
    assert names(found.train[:4]) == [f"{pattern.format(1)}_{i:03d}.png" for i in range(4)]


def test_flat_files(tmp_path):
    for user in (3, 1, 31):
        for split in ("train", "val"):
            for i in (2, 1):
                touch(tmp_path / split / f"user_{user:02d}_sample_{i:03d}.JPG")
    touch(tmp_path / "train" / "micro_doppler_user03_004.png")
    found = find_user_images(tmp_path)
    assert found.user_ids == (1, 3, 31)
    assert names(found.val) == [f"user_{u:02d}_sample_{i:03d}.JPG" for u in (1, 3, 31) for i in (1, 2)]
    assert [i.label for i in found.train] == [0, 0, 1, 1, 1, 2, 2]


def test_one_folder_is_split_by_user(tmp_path):
    counts = {1: 10, 2: 5, 7: 2, 9: 3}
    for user, count in counts.items():
        for i in range(count):
            touch(tmp_path / f"ID_{user}" / f"{i}.png")
    found = find_user_images(tmp_path, val_fraction=0.2, seed=1)
    assert found.user_ids == (1, 2, 7, 9)
    assert [sum(i.user_id == user for i in found.val) for user in counts] == [2, 1, 1, 1]
    paths = [i.path for i in found.train] + [i.path for i in found.val]
    assert len(set(paths)) == len(paths) == 20
    assert find_user_images(tmp_path, val_fraction=0.2, seed=1) == found
    others = {names(find_user_images(tmp_path, val_fraction=0.2, seed=s).val[:2])[0] for s in range(6)}
    assert len(others) > 1
    # Half of everything still leaves something to train on.
    half = find_user_images(tmp_path, val_fraction=0.9)
    assert {i.user_id for i in half.train} == set(counts)
    # A user's share does not change when another one joins.
    touch(tmp_path / "ID_8" / "0.png")
    touch(tmp_path / "ID_8" / "1.png")
    joined = find_user_images(tmp_path, val_fraction=0.2, seed=1)
    assert [i.path for i in joined.val if i.user_id != 8] == [i.path for i in found.val]


def test_train_alone_is_split(tmp_path):
    class_folders(tmp_path, ["ID_1", "ID_2"], splits=["train"], counts=[5])
    found = find_user_images(tmp_path, val_fraction=0.4)
    assert len(found.train) == 6
    assert len(found.val) == 4
    with pytest.raises(ConfigError, match=r"has no val/.*--val_fraction 0\.2"):
        find_user_images(tmp_path)


def test_nested_folders_and_files_that_are_no_images(tmp_path, caplog):
    class_folders(tmp_path, ["ID_1"])
    touch(tmp_path / "train" / "ID_1" / "monday" / "x.webp")
    touch(tmp_path / "train" / "ID_1" / "notes.txt")
    touch(tmp_path / "train" / "labels.csv")
    touch(tmp_path / "train" / ".DS_Store")
    touch(tmp_path / "train" / "ID_1" / "._x.png")
    touch(tmp_path / "train" / "__MACOSX" / "x.png")
    with caplog.at_level(logging.INFO, logger="jitflow"):
        found = find_user_images(tmp_path)
    assert len(found.train) == 5
    assert "passed over 2 files that are no images: labels.csv, notes.txt" in caplog.text


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path):
    for place in ("a", "b"):
        class_folders(tmp_path / place, ["ID_1", "ID_2"])
    first = find_user_images(tmp_path / "a").fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert find_user_images(tmp_path / "b").fingerprint() == first
    seen = {first}
    path = tmp_path / "b" / "train" / "ID_1" / "ID_1_001.png"
    path.write_bytes(path.read_bytes().replace(b"train", b"TRAIN"))  # the same size
    seen.add(find_user_images(tmp_path / "b").fingerprint())
    path.rename(path.with_name("other.png"))
    seen.add(find_user_images(tmp_path / "b").fingerprint())
    (tmp_path / "b" / "train" / "ID_2").rename(tmp_path / "b" / "train" / "user_02")
    seen.add(find_user_images(tmp_path / "b").fingerprint())
    (tmp_path / "a" / "val" / "ID_2" / "ID_2_000.png").unlink()
    seen.add(find_user_images(tmp_path / "a").fingerprint())
    assert len(seen) == 5


def remove_all(root, split, user):
    for path in (root / split / user).iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda r: remove_all(r, "val", "ID_2"), {}, DataError, r"no images in .*val for ID_2"),
        (
            lambda r: (remove_all(r, "val", "ID_2"), (r / "val" / "ID_2").rmdir()),
            {},
            DataError,
            r"user 2 .*train/ and none in val/",
        ),
        (lambda r: touch(r / "val" / "ID_7" / "x.png"), {}, DataError, r"user 7 .*val/ and none in train/"),
        (lambda r: touch(r / "train" / "user01" / "x.png"), {}, DataError, "ID_1 and user01 are both of user 1"),
        (lambda r: touch(r / "train" / "noise" / "x.png"), {}, DataError, "folder name noise"),
        (lambda r: touch(r / "train" / "ID_0" / "x.png"), {}, DataError, "users are numbered from 1; rename user 0"),
        (lambda r: touch(r / "train" / "x.png"), {}, DataError, r"\(x\.png\) and in folders \(ID_1,"),
        (lambda r: None, {"val_fraction": 0.2}, ConfigError, "has val/ already; .*--val_fraction"),
        (lambda r: None, {"val_fraction": 0.0}, ConfigError, r"val_fraction .*got 0\.0"),
        (lambda r: None, {"val_fraction": 1.0}, ConfigError, r"val_fraction .*got 1\.0"),
        (lambda r: (r / "train").rename(r / "training"), {}, DataError, r"has val/ but no train/; expected train/"),
    ],
)
def test_messes(tmp_path, change, options, error, message):
    class_folders(tmp_path, ["ID_1", "ID_2", "ID_3"])
    change(tmp_path)
    with pytest.raises(error, match=message):
        find_user_images(tmp_path, **options)


def test_nothing_to_find(tmp_path):
    with pytest.raises(MissingFileError, match=r"data_dir .*none is not a folder"):
        find_user_images(tmp_path / "none")
    with pytest.raises(DataError, match=r"found nothing; .*ID_1/.*user_01_sam"):
        find_user_images(tmp_path, val_fraction=0.2)
    touch(tmp_path / "data_split" / "readme.md")
    with pytest.raises(DataError, match=r"no images .*found data_split; expected"):
        find_user_images(tmp_path, val_fraction=0.2)
    touch(tmp_path / "flat" / "walk.png")
    with pytest.raises(DataError, match=r"no user's number .*walk\.png"):
        find_user_images(tmp_path / "flat", val_fraction=0.2)


def test_single_images_cannot_be_split(tmp_path):
    for user, count in ((1, 3), (2, 1), (5, 1)):
        for i in range(count):
            touch(tmp_path / f"user_{user:02d}_sample_{i:03d}.png")
    with pytest.raises(DataError, match="user 2, 5 has a single image"):
        find_user_images(tmp_path, val_fraction=0.2)


# ------------------------------------------------------------------------------------------------ reading


def test_reading_resizes_the_whole_picture(tmp_path):
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, :40, 0] = 255  # the left half
    wide[10:, :, 2] = 255  # the lower half
    Image.fromarray(wide).save(tmp_path / "x.png")
    pixels = read_user_image(tmp_path / "x.png", 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert (pixels[0, :, :6] == 255).all()
    assert (pixels[0, :, 10:] == 0).all()
    assert (pixels[2, :6] == 0).all()
    assert (pixels[2, 10:] == 255).all()
    assert read_user_image(tmp_path / "x.png", (8, 24)).shape == (3, 8, 24)


def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path):
    exact = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(exact).save(tmp_path / "x.png")
    assert np.array_equal(read_user_image(tmp_path / "x.png", (16, 24)), exact.transpose(2, 0, 1))


def test_fine_stripes_become_grey(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "x.png")
    pixels = read_user_image(tmp_path / "x.png", 16)
    assert np.abs(pixels.astype(int) - 127.5).max() < 12
    assert (pixels[0] == pixels[2]).all()


def test_kinds_of_images(tmp_path):
    grey = Image.fromarray(np.full((16, 16), 100, np.uint8))
    for mode, name in (("L", "a.png"), ("P", "b.png"), ("CMYK", "c.jpg"), ("RGBA", "d.png"), ("RGB", "e.bmp")):
        # An adaptive palette holds the very colour.
        grey.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / name)
        assert np.abs(read_user_image(tmp_path / name, 16).astype(int) - 100).max() <= 2, mode
    Image.fromarray(np.full((16, 16), 100 * 257, np.uint16)).save(tmp_path / "f.png")
    assert (read_user_image(tmp_path / "f.png", 16) == 100).all()


def test_damaged_images_are_named(tmp_path):
    touch(tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"cannot read .*bad\.png \(not an image\)"):
        read_user_image(tmp_path / "bad.png")
