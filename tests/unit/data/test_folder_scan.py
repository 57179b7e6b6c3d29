"""The list of images: torchvision's order, and a kept list that never lies."""

import json
import os
import time

import numpy as np
import pytest
from torchvision import datasets

from jitflow.data import folder_scan
from jitflow.data.folder_scan import SUFFIXES, list_images, listing_fingerprint, split_folders
from jitflow.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Classes with nested folders, links, names that sort oddly, other files; last changed long ago."""
    root = tmp_path / "train"
    for name in (
        "a/z.png",
        "a/B.JPG",
        "a/sub/1.png",
        "a/sub-x/2.png",
        "a/notes.txt",
        "b c/ü.webp",
        "b c/10.png",
        "b c/9.png",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (root / "loose.png").write_bytes(b"in no class")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.tiff").write_bytes(b"far")
    (root / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "linked.png").write_bytes(b"linked")
    (root / "a" / "link").symlink_to(tmp_path / "deeper", target_is_directory=True)
    age(root, tmp_path / "elsewhere", tmp_path / "deeper")
    return root


def age(*folders):
    past = time.time() - 1000
    for folder in folders:
        for place, _, _ in os.walk(folder):
            os.utime(place, (past, past))


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Keep the lists of small folders too, and tell which folders were walked."""
    walked = []
    real = folder_scan.list_tree

    def listed(root):
        walked.append(root.name)
        return real(root)

    monkeypatch.setattr(folder_scan, "MIN_FILES_CACHED", 1)
    monkeypatch.setattr(folder_scan, "list_tree", listed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return walked


def test_suffixes_are_those_of_torchvision():
    assert datasets.folder.IMG_EXTENSIONS == SUFFIXES


def test_order_and_labels_are_those_of_torchvision(folder):
    ours, theirs = list_images(folder), datasets.ImageFolder(folder)
    assert list(ours.classes) == theirs.classes == ["a", "b c", "c"]
    assert [
        (f"{folder}/{file}", label) for file, label in zip(ours.files, ours.labels.tolist(), strict=True)
    ] == theirs.imgs
    assert len(ours) == 9
    assert ours.class_counts().tolist() == [5, 3, 1]
    part = ours.take(np.array([0, 8]))
    assert (part.files, part.labels.tolist(), part.classes) == ([ours.files[0], ours.files[8]], [0, 2], ours.classes)


def test_small_folders_are_left_alone(folder):
    list_images(folder)
    assert not (folder / ".jitflow-scan.json").exists()


def test_the_second_listing_walks_nothing_and_is_the_same(folder, kept):
    first = list_images(folder)
    assert sorted(kept) == ["a", "b c", "c"]
    kept.clear()
    second = list_images(folder)
    assert kept == []
    assert (second.files, second.classes, second.labels.tolist()) == (first.files, first.classes, first.labels.tolist())
    assert (second.left_out, second.unused) == (first.left_out, first.unused)
    # The list itself is no image and no class.
    assert (folder / ".jitflow-scan.json").is_file()
    assert second.files == datasets_files(folder)


def datasets_files(folder):
    return [path.removeprefix(f"{folder}/") for path, _ in datasets.ImageFolder(folder, allow_empty=True).imgs]


def add(folder):
    (folder / "a" / "new.png").write_bytes(b"")


def add_deep(folder):
    (folder / "a" / "sub" / "new.png").write_bytes(b"")


def remove(folder):
    (folder / "a" / "z.png").unlink()


def rename(folder):
    (folder / "a" / "z.png").rename(folder / "a" / "y.png")


def new_folder(folder):
    (folder / "a" / "deep").mkdir()
    (folder / "a" / "deep" / "x.png").write_bytes(b"")


def behind_the_link(folder):
    (folder / "c" / "near.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "walked"),
    [(add, "a"), (add_deep, "a"), (remove, "a"), (rename, "a"), (new_folder, "a"), (behind_the_link, "c")],
)
def test_a_change_is_seen_and_only_its_class_is_listed_anew(folder, kept, change, walked):
    list_images(folder)
    kept.clear()
    change(folder)
    files = list_images(folder).files
    assert kept == [walked]
    assert files == datasets_files(folder)


def test_a_new_and_a_removed_class_are_seen(folder, kept):
    list_images(folder)
    (folder / "aa").mkdir()
    (folder / "aa" / "x.png").write_bytes(b"")
    for name in ("9.png", "10.png", "ü.webp"):
        (folder / "b c" / name).unlink()
    (folder / "b c").rmdir()
    assert list_images(folder).classes == ("a", "aa", "c")


def test_a_class_that_changed_just_now_is_not_trusted(folder, kept):
    add(folder)
    list_images(folder)
    kept.clear()
    list_images(folder)
    assert kept == ["a"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "classes": {"a": [[1]]}}']
)
def test_a_damaged_list_is_made_anew(folder, kept, content):
    (folder / ".jitflow-scan.json").write_text(content)
    assert list_images(folder).files == datasets_files(folder)
    assert set(json.loads((folder / ".jitflow-scan.json").read_text())["classes"]) == {"a", "b c", "c"}


def test_folders_that_cannot_be_written_to_use_the_cache_folder(folder, kept, monkeypatch, tmp_path):
    real = folder_scan.write_text

    def refuse(path, text):
        if path.parent == folder:
            raise PermissionError(13, "Permission denied")
        real(path, text)

    monkeypatch.setattr(folder_scan, "write_text", refuse)
    first = list_images(folder)
    assert not (folder / ".jitflow-scan.json").exists()
    assert len(list((tmp_path / "cache" / "jitflow" / "scans").glob("*.json"))) == 1
    kept.clear()
    assert list_images(folder).files == first.files
    assert kept == []


def test_fingerprint_sees_names_and_sizes(folder):
    before = listing_fingerprint(list_images(folder))
    assert before == listing_fingerprint(list_images(folder))
    (folder / "a" / "z.png").write_bytes(b"longer than before")
    grown = listing_fingerprint(list_images(folder))
    (folder / "a" / "z.png").rename(folder / "a" / "zz.png")
    assert len({before, grown, listing_fingerprint(list_images(folder))}) == 3


def test_empty_classes(folder):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .* for the class empty"):
        list_images(folder)
    assert list_images(folder, allow_empty=True).class_counts().tolist() == [5, 3, 1, 0]


def test_split_folders(folder, tmp_path, caplog):
    assert split_folders(tmp_path) == {"train": folder}
    (tmp_path / "val").mkdir()
    assert split_folders(tmp_path) == {"train": folder, "val": tmp_path / "val"}
    with caplog.at_level("INFO"):
        assert split_folders(folder) == {"train": folder}
    assert "3 sub-folders are taken as the training classes" in caplog.text
