"""`jitflow data check`: every planted fault is found, pictured, and decides the exit status."""

import json

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.images.check import check_folder
from jitflow.apps.images.prepare import prepare
from jitflow.errors import DataError, MissingFileError
from jitflow.verbs import data as data_commands


def write(path, seed, size=(70, 66), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for label, name in enumerate(("cat", "dog")):
        for i in range(4):
            write(root / "train" / name / f"{i}.png", 10 * label + i)
        write(root / "val" / name / "0.png", 100 + label)
    return root


def plant(root):
    train = root / "train"
    write(train / "cat" / "cmyk.jpg", 50, mode="CMYK")
    write(train / "cat" / "[bold]palette.png", 51, mode="P")
    write(train / "cat" / "tiny.png", 52, size=(8, 9))
    (train / "dog" / "corrupt.png").write_bytes(b"nothing")
    whole = (train / "dog" / "0.png").read_bytes()
    (train / "dog" / "cut.png").write_bytes(whole[:4000])
    (train / "dog" / "twin.png").write_bytes((train / "cat" / "1.png").read_bytes())
    (root / "val" / "dog" / "leak.png").write_bytes((train / "dog" / "2.png").read_bytes())
    write(train / "few" / "only.png", 60)
    write(root / "val" / "few" / "only.png", 61)


EXPECTED = {
    "corrupt": ["train/dog/corrupt.png"],
    "truncated": ["train/dog/cut.png"],
    "leak": ["val/dog/leak.png"],
    "duplicate": ["train/dog/twin.png"],
    "tiny": ["train/cat/tiny.png"],
    "cmyk": ["train/cat/cmyk.jpg"],
    "palette": ["train/cat/[bold]palette.png"],
    "small_class": ["train/few"],
}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_fault_is_found_and_no_other(folder, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("jitflow.apps.images.check.FILES_IN_TASK", 3)
    plant(folder)
    out = tmp_path / "report"
    report, findings = check_folder(folder, out, workers=workers, min_class_images=2)
    assert {f.kind: [found.file for found in f.files] for f in findings} == EXPECTED
    assert json.loads((out / "check.json").read_text()) == report
    assert report["num_images"] == {"train": 15, "val": 4}
    assert report["num_classes"] == {"train": 3, "val": 3}
    found = {entry["kind"]: entry for entry in report["findings"]}
    assert found["duplicate"]["files"][0]["twin"] == "train/cat/1.png"
    assert (found["leak"]["severity"], found["tiny"]["severity"]) == ("error", "warning")
    assert {path.stem for path in out.glob("*.png")} == set(EXPECTED)
    with Image.open(out / "duplicate.png") as sheet:
        assert sheet.size == (2 * 130 + 2, 154 + 4)  # both files side by side
        pair = np.asarray(sheet)
    assert np.array_equal(pair[2:130, 2:130], pair[2:130, 132:260])
    with Image.open(out / "corrupt.png") as sheet:
        assert np.asarray(sheet)[10, 10].tolist() == [90, 90, 90]
    with Image.open(out / "truncated.png") as sheet:
        # The part that is there is shown.
        assert np.asarray(sheet)[6:30, 20:100].std() > 20


def test_a_clean_folder(folder, tmp_path, capfd):
    words = ["check", str(folder), "--out", str(tmp_path / "report"), "--workers", "1", "--min_class_images", "4"]
    data_commands.data(words)
    assert "train 8 images, val 2 images, nothing found" in capfd.readouterr().err.replace("\n", " ")
    assert json.loads((tmp_path / "report" / "check.json").read_text())["findings"] == []


def test_the_command_fails_for_errors_only(folder, tmp_path, capfd):
    words = ["check", str(folder), "--out", str(tmp_path / "report"), "--workers", "1", "--min-side", "100"]
    data_commands.data(words)
    assert "tiny" in capfd.readouterr().out
    plant(folder)
    with pytest.raises(DataError, match=r"1 corrupt, 1 truncated, 1 leak.*\.json"):
        data_commands.data(words)
    assert "[bold]" in capfd.readouterr().out


def test_a_folder_of_classes_alone(folder, tmp_path):
    write(folder / "train" / "cat" / "tiny.png", 1, size=(5, 5))
    (folder / "train" / "void").mkdir()
    report, findings = check_folder(folder / "train", tmp_path / "report", workers=1, min_class_images=0)
    assert report["num_images"] == {"train": 9}
    assert {f.kind: [found.file for found in f.files] for f in findings} == {
        "tiny": ["cat/tiny.png"],
        "empty_class": ["void"],
    }
    assert (tmp_path / "report" / "tiny.png").is_file()
    assert not (tmp_path / "report" / "empty_class.png").exists()


def test_no_folder(tmp_path):
    with pytest.raises(MissingFileError, match="absent"):
        data_commands.data(["check", str(tmp_path / "absent"), "--workers", "1"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_prepared_folders_are_checked_by_their_checksums(folder, tmp_path, capfd, workers):
    out, report = tmp_path / "out", tmp_path / "report"
    prepare(folder, out, img_size=16, workers=1, shard_images=3)
    words = ["check", str(out), "--out", str(report), "--workers", workers]
    data_commands.data(words)
    assert "4 shards, all checksums right" in capfd.readouterr().err
    path = out / "train-00001-of-00003.safetensors"
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name} is damaged .*jitflow data prepare"):
        data_commands.data(words)
    damaged = json.loads((report / "check.json").read_text())["damaged"]
    assert [path.name in line for line in damaged] == [True]
    path.unlink()
    prepare(folder, out, img_size=16, workers=1, shard_images=3)
    data_commands.data(words)
