"""Manifests, splits that keep sessions and recordings whole, and the leakage report."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.microdoppler.arrays.colour_maps import colour_table
from jitflow.apps.microdoppler.arrays.measure import measure_scale
from jitflow.apps.microdoppler.leakage import describe_leakage, find_leakage
from jitflow.apps.microdoppler.user_files import UserFile
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.apps.microdoppler.user_split import linked_files
from jitflow.data.group_split import merge_linked, split_groups
from jitflow.errors import ConfigError, DataError, MissingFileError

LOGGER = "jitflow.apps.microdoppler.user_images"


def campaign(root, *, users=4, sessions=5, each=4, columns=("path", "user", "session"), suffix=".csv"):
    """A campaign whose sessions are of one user each; a file for each sample, not looked into."""
    rows = []
    for user in range(1, users + 1):
        for session in range(1, sessions + 1):
            for i in range(each):
                path = root / "cut" / f"u{user}_{session}_{i}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{user} {session} {i}".encode())
                name = f"{user}-{session}"
                rows.append(
                    {
                        "path": f"cut/{path.name}",
                        "user": f"P{user:02d}",
                        "session": name,
                        "activity": str(1 + session % 2),
                        "recording": f"{name}-{i // 2}",
                        "split": "val" if session == 1 else "train",
                        "start_sec": str(0.5 * i),
                        "duration_sec": "1.0",
                    }
                )
    write_manifest(root / f"manifest{suffix}", rows, columns)
    return rows


def write_manifest(path, rows, columns):
    if path.suffix == ".csv":
        lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: [row[name] for row in rows] for name in columns}), path)


def sides(found, name="session"):
    return [{getattr(image.origin, name) for image in images} for images in (found.train, found.val)]


# ------------------------------------------------------------------------------------------------------ the split


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.5])
def test_groups_of_one_size_are_split_exactly(fraction):
    labels, groups = np.repeat(np.arange(6), 20), np.repeat(np.arange(60), 2)
    held_out = split_groups(labels, groups, fraction, 3)
    assert np.array_equal(np.bincount(labels[held_out]), np.full(6, 20 * fraction))
    assert not set(groups[held_out]) & set(groups[~held_out])
    assert np.array_equal(held_out, split_groups(labels, groups, fraction, 3))
    assert any(not np.array_equal(held_out, split_groups(labels, groups, fraction, seed)) for seed in range(4, 8))


def test_groups_of_several_labels_leave_each_label_on_both_sides():
    # Days with some of the people each; only few choices leave everybody on both sides.
    rng = np.random.default_rng(0)
    for _ in range(20):
        days = [rng.choice(8, size=4, replace=False) for _ in range(9)]
        labels, groups = np.concatenate(days), np.repeat(np.arange(9), 4)
        if np.bincount(labels, minlength=8).min() < 2:
            continue
        held_out = split_groups(labels, groups, 0.25, 0)
        assert not set(groups[held_out]) & set(groups[~held_out])
        assert set(labels[held_out]) == set(labels[~held_out]) == set(labels)


def test_most_splits_of_unequal_groups_are_the_best_ones():
    rng = np.random.default_rng(0)
    held = (np.arange(256)[:, None] >> np.arange(8)) & 1

    def imbalance(chosen, counts):
        share = chosen @ counts / counts.sum(0)
        return ((share - 0.3) ** 2).sum(-1) + 10 * ((share <= 0) | (share >= 1)).sum(-1)

    found = []
    for _ in range(30):
        counts = rng.integers(1, 6, (8, 3))
        labels = np.concatenate([np.repeat(np.arange(3), row) for row in counts])
        groups = np.repeat(np.arange(8), counts.sum(1))
        held_out = split_groups(labels, groups, 0.3, 0)
        chosen = np.array([held_out[groups == group].all() for group in range(8)])
        found.append(imbalance(chosen, counts) <= imbalance(held, counts).min() + 1e-9)
    assert np.mean(found) > 0.6


def test_links_join_groups():
    assert merge_linked(6, [[0, 3], [4], [3, 5]]).tolist() == [0, 1, 2, 0, 3, 0]
    assert merge_linked(4, [[0, 1], [2, 3], [1, 3]]).tolist() == [0, 0, 0, 0]
    assert merge_linked(2, []).tolist() == [0, 1]


# ---------------------------------------------------------------------------------------------------- the manifest


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_sessions_of_a_manifest_stay_whole(tmp_path, suffix):
    campaign(tmp_path, suffix=suffix)
    found = find_user_images(tmp_path, val_fraction=0.2, seed=1)
    assert found.user_ids == (1, 2, 3, 4) and found.group == "session" and found.arrays is not None
    train, val = sides(found)
    assert not train & val and len(val) == 4 and len(found.val) == 16
    assert {image.user_id for image in found.val} == {1, 2, 3, 4}
    assert find_user_images(tmp_path / f"manifest{suffix}", val_fraction=0.2, seed=1) == found
    leaks, line = describe_leakage(find_leakage(found))
    assert not leaks and "16 sessions" in line
    assert found.fingerprint() != find_user_images(tmp_path, val_fraction=0.2, seed=2).fingerprint()


def test_a_manifest_of_other_columns_is_described(tmp_path):
    # Activities as classes, and nobody on both sides.
    campaign(tmp_path, columns=("path", "user", "activity", "recording"))
    (tmp_path / "spectrograms.yaml").write_text("label: activity\ngroup: user\nrange_db: [-45, 0]\n")
    found = find_user_images(tmp_path, val_fraction=0.25)
    assert found.user_ids == (1, 2) and found.group == "user" and found.arrays.range_db == (-45, 0)
    train, val = sides(found)
    assert len(train) == 3 and len(val) == 1 and not train & val
    # Other numbers are made of the same files.
    (tmp_path / "spectrograms.yaml").write_text("label: activity\ngroup: user\nrange_db: [-40, 0]\n")
    assert find_user_images(tmp_path, val_fraction=0.25).fingerprint() != found.fingerprint()


def test_overlapping_windows_stay_together_whatever_the_group(tmp_path):
    campaign(tmp_path, columns=("path", "user", "recording", "start_sec", "duration_sec"), each=6)
    (tmp_path / "spectrograms.yaml").write_text("group: none\n")
    found = find_user_images(tmp_path, val_fraction=0.3)
    assert found.group == ""
    # Windows 2 i and 2 i + 1 of a recording overlap by half.
    train, val = sides(found, "recording")
    assert not train & val and find_leakage(found)["num_windows"] == 0
    # Far apart they may be on both sides.
    rows = campaign(tmp_path, columns=("path", "user"), each=6)
    for i, row in enumerate(rows):
        row["start_sec"] = str(10 * i)
    write_manifest(tmp_path / "manifest.csv", rows, ("path", "user", "recording", "start_sec", "duration_sec"))
    train, val = sides(find_user_images(tmp_path, val_fraction=0.3), "recording")
    assert train & val


def test_windows_are_linked_by_what_they_share():
    # The first window holds the next two; the last begins where it ends.
    windows = [(0, 10), (1, 2), (5, 6), (10, 12)]
    files = [(1, UserFile(Path("a.npy"), recording="r", window_sec=window)) for window in windows]
    assert list(linked_files(files, by_session=False)) == [[0, 1, 2], [3]]


@pytest.mark.parametrize("by_names", [True, False])
def test_recordings_may_be_numbered_anew_in_each_session(tmp_path, by_names):
    root = tmp_path / "campaign" if by_names else tmp_path / "files"
    rows = []
    for user in (1, 2):
        for session in (1, 2, 3):
            for i in range(4):
                path = root / f"ID_{user}" / f"session{session}" / f"rec{i % 2}_{i}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{user} {session} {i}".encode())
                name = path.relative_to(tmp_path).as_posix()
                rows.append({"path": name, "user": str(user), "session": f"{user}-{session}", "recording": str(i % 2)})
    if not by_names:
        write_manifest(tmp_path / "manifest.csv", rows, ("path", "user", "session", "recording"))
    found = find_user_images(root if by_names else tmp_path, val_fraction=0.3)
    assert found.group == "session" and [len(side) for side in sides(found)] == [4, 2]
    assert not describe_leakage(find_leakage(found))[0]


def test_recordings_of_one_number_and_two_users_are_two(tmp_path):
    for user in (1, 2, 3):
        for i in range(15):
            path = tmp_path / f"ID_{user}" / f"rec{i // 3}_{i}.npy"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"{user} {i}".encode())
    found = find_user_images(tmp_path, val_fraction=0.2)
    report = find_leakage(found)
    assert (found.group, report["num_groups"], report["num_shared_groups"]) == ("recording", [12, 3], 0)


def test_a_split_that_leaks_is_reported(tmp_path):
    rows = campaign(tmp_path, columns=("path", "user", "session", "recording", "split"))
    found = find_user_images(tmp_path)
    assert len(found.val) == 16 and not describe_leakage(find_leakage(found))[0]
    for row in rows:
        row["split"] = "val" if row["path"].endswith("_3.npy") else "train"
    write_manifest(tmp_path / "manifest.csv", rows, ("path", "user", "session", "recording", "split"))
    report = find_leakage(find_user_images(tmp_path))
    assert (report["num_shared_groups"], report["num_windows"], report["num_equal_files"]) == (20, 20, 0)
    leaks, line = describe_leakage(report)
    assert leaks and "20 of 20 sessions" in line and "1-1" in line


def test_names_tell_sessions_and_equal_files_are_found(tmp_path):
    for user in (1, 2):
        for session in (1, 2, 3):
            for i in range(4):
                path = tmp_path / f"ID_{user}" / f"session{session}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{user} {session} {i % 3}".encode())
    found = find_user_images(tmp_path, val_fraction=0.3)
    assert found.group == "session" and [len(side) for side in sides(found)] == [4, 2]
    assert find_leakage(found)["num_equal_files"] == 0
    (tmp_path / "spectrograms.yaml").write_text("group: none\ncolour_map: none\n")
    mixed = find_user_images(tmp_path, val_fraction=0.5)
    report = find_leakage(mixed)
    assert report["num_equal_files"] > 0 and describe_leakage(report)[0]
    assert mixed.arrays is None and mixed.group == ""


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("path,who\na.npy,1", DataError, "no column for the users"),
        ("name,user\na.npy,1", DataError, "no column for the files"),
        ("path,user\na.npy,1\nno.npy,2", MissingFileError, "row 2"),
        ("path,user\na.npy,1\na.npy,2", DataError, "row 1 already"),
        ("path,user\na.npy,Bob", DataError, "row 1: user is 'Bob'"),
        ("path,user\na.npy,0", DataError, "from 1"),
        ("path,user,split\na.npy,1,train\nb.npy,1,test", DataError, "no val"),
        ("path,user,start_sec,stop_sec\na.npy,1,3,2", DataError, "stretch of time"),
        ("path,user\na.npy,1\nb.npy,1", ConfigError, "val_fraction"),
        ("path,user,split\na.npy,1,train\nb.npy,2,val", DataError, "none in val"),
        ("path,user,session\na.npy,1,x\nb.npy,1,x", DataError, "group: none"),
        ("path,user,recording\na.npy,1,x\nb.npy,1,x", DataError, "no recording to hold out"),
    ],
)
def test_a_wrong_manifest_is_one_error(tmp_path, text, error, said):
    for name in ("a.npy", "b.npy"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "manifest.csv").write_text(text)
    fraction = None if "val_fraction" in said or "split" in text else 0.5
    with pytest.raises(error, match=said) as raised:
        find_user_images(tmp_path, val_fraction=fraction)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------------- arrays and pictures in folders


def test_arrays_are_found_in_folders_beside_pictures_of_them(tmp_path):
    for user in (1, 2):
        for i in range(3):
            for suffix in ("npz", "png"):
                path = tmp_path / f"ID_{user}" / f"{i}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"not looked at")
    found = find_user_images(tmp_path, val_fraction=0.3)
    assert {image.path.suffix for image in (*found.train, *found.val)} == {".npz"} and found.arrays is not None
    # A stray array among pictures does not make it a set of arrays.
    for path in tmp_path.glob("ID_*/[12].npz"):
        path.unlink()
    found = find_user_images(tmp_path, val_fraction=0.3)
    assert {image.path.suffix for image in (*found.train, *found.val)} == {".png"} and found.arrays is None


def test_pictures_are_levels_only_where_they_are_described(tmp_path, caplog):
    level = np.add.outer(np.arange(64), np.arange(64)) * 2
    for i in range(3):
        Image.fromarray(colour_table("hot")[level]).save(tmp_path / f"user_01_{i}.png")
    assert find_user_images(tmp_path, val_fraction=0.4).arrays is None
    (tmp_path / "spectrograms.yaml").write_text("range_db: [-40, 0]\n")
    assert find_user_images(tmp_path, val_fraction=0.4).arrays.colour_map == "hot"
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"user_01_{i}.png")
    with caplog.at_level(logging.WARNING, LOGGER):
        assert find_user_images(tmp_path, val_fraction=0.4).arrays is None
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no known colour map" in warning.getMessage()


@pytest.mark.parametrize(
    ("dtype", "described", "arrays"), [("float32", False, True), ("uint16", True, True), ("uint16", False, False)]
)
def test_tiffs_of_numbers_are_arrays_where_no_picture_is_like_them(tmp_path, dtype, described, arrays):
    for i in range(2):
        Image.fromarray(np.arange(64 * 64).reshape(64, 64).astype(dtype)).save(tmp_path / f"user_01_{i}.tif")
    if described:
        (tmp_path / "spectrograms.yaml").write_text("fit: pad\n")
    found = find_user_images(tmp_path, val_fraction=0.5)
    assert (found.arrays is not None) == arrays
    if arrays:
        scale = measure_scale([image.path for image in found.train], found.arrays)
        assert scale.unit == "dB" and scale.range_db == pytest.approx((4, 4095), abs=1)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("user_01_session2_{}.png", "session"),
        ("user_01_rec07_{}.png", "recording"),
        ("user_01_sample_00{}.png", ""),
        ("user_01_recorded_{}.png", ""),
        ("user_01_rec_sample_00{}.png", ""),
    ],
)
def test_only_numbered_sessions_and_recordings_in_names_count(tmp_path, name, group):
    for i in range(4):
        (tmp_path / name.replace("2_", f"{i // 2}_").replace("07_", f"{i // 2}_").format(i)).write_bytes(b"%d" % i)
    found = find_user_images(tmp_path, val_fraction=0.5)
    assert found.group == group and len(found.val) == 2
