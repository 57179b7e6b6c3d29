"""`jitflow data prepare`: however it was interrupted and by whatever number of processes, the same shards."""

import json
import multiprocessing
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.images.data import JiTDataModule
from jitflow.apps.images.prepare import prepare
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.files import file_checksum
from jitflow.io.folder_lock import locked
from jitflow.verbs import data as data_commands


def make_folder(root, count, size=(40, 30)):
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:03d}.jpg")
    return root


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source", 9)


def checksums(out):
    return {path.name: file_checksum(path) for path in sorted(out.glob("*.safetensors"))}


def small(folder, out, **options):
    return prepare(folder, out, **{"img_size": 16, "workers": 1, "shard_images": 4, **options})


def test_the_manifest_tells_everything(folder, tmp_path):
    out = tmp_path / "out"
    manifest = small(folder, out)
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["classes"] == ["cat", "dog"]
    assert (manifest["img_size"], manifest["channels"]) == ([16, 16], 3)
    train = manifest["splits"]["train"]
    assert (train["num_images"], train["num_skipped"], train["class_counts"]) == (18, 0, [9, 9])
    assert [shard["num_images"] for shard in train["shards"]] == [4, 4, 4, 4, 2]
    assert manifest["splits"]["val"]["class_counts"] == [3, 3]
    every = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    assert {shard["file"]: shard["sha256"] for shard in every} == checksums(out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*checksums(out), "manifest.json"])


def test_several_processes_make_the_same_shards(folder, tmp_path):
    small(folder, tmp_path / "one")
    small(folder, tmp_path / "two", workers=2)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


class Interruption(Exception):
    pass


@pytest.mark.parametrize("where", ["crop", "finish", "record", "manifest"])
def test_interrupted_anywhere_and_continued(folder, tmp_path, monkeypatch, where):
    from jitflow.apps.images import prepare as data_prepare
    from jitflow.apps.images import shard_writer
    from jitflow.io.array_file import ArrayFileWriter

    small(folder, tmp_path / "whole")
    out, rng = tmp_path / "out", random.Random(where)
    interruptions = 0
    while not (out / "manifest.json").exists():
        with monkeypatch.context() as patch:
            left = rng.randrange(1, 12 if where == "crop" else 3)

            def dying(real, only=None):
                def call(*args, **options):
                    nonlocal left
                    if only is None or only in str(args[0]):
                        left -= 1
                        if left == 0:
                            raise Interruption
                    return real(*args, **options)

                return call

            if where == "crop":
                patch.setattr(shard_writer, "center_crop_arr", dying(shard_writer.center_crop_arr))
            elif where == "finish":
                patch.setattr(ArrayFileWriter, "finish", dying(ArrayFileWriter.finish))
            else:
                only = "records" if where == "record" else "manifest"
                left = 1 if where == "manifest" and interruptions == 0 else left
                patch.setattr(data_prepare, "write_json", dying(data_prepare.write_json, only))
            try:
                small(folder, out)
            except Interruption:
                interruptions += 1
                with pytest.raises(DataError, match="unfinished"):
                    JiTDataModule(str(out), 16).setup("fit")
                assert interruptions < 100
    assert interruptions > 0
    assert checksums(out) == checksums(tmp_path / "whole")
    assert not (out / ".unfinished").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_killed_and_continued(tmp_path):
    # A real process with workers, killed without warning while they work; they go with it.
    folder, out = make_folder(tmp_path / "source", 40, size=(300, 260)), tmp_path / "out"
    options = {"img_size": 64, "shard_images": 5}
    rng, killed = random.Random(0), 0
    for _ in range(3):
        run = multiprocessing.get_context("fork").Process(
            target=prepare, args=(folder, out), kwargs={**options, "workers": 2}
        )
        run.start()
        # After a few more shards.
        wanted = len(list(out.glob("*.safetensors"))) + rng.randrange(1, 5)
        while run.is_alive() and len(list(out.glob("*.safetensors"))) < wanted:
            time.sleep(0.002)
        run.kill()
        run.join()
        killed += run.exitcode == -signal.SIGKILL
    assert killed > 0
    # What a kill in the middle of writing a record leaves.
    for record in [*out.glob(".unfinished/records/*.json")][:1]:
        (record.parent / f".{record.name}.x1y2.json").write_text("")
    left = prepare(folder, out, **options, workers=2)
    whole = prepare(folder, tmp_path / "whole", **options, workers=1)
    assert left == whole
    assert checksums(out) == checksums(tmp_path / "whole")


def test_finished_work_is_not_done_again_and_lost_shards_are(folder, tmp_path, monkeypatch):
    from jitflow.apps.images import prepare as data_prepare

    out = tmp_path / "out"
    small(folder, out)
    before = checksums(out)
    made = []
    real = data_prepare.write_shard

    def write_shard(task, on_image):
        made.append(task.file)
        return real(task, on_image)

    monkeypatch.setattr(data_prepare, "write_shard", write_shard)
    small(folder, out)
    assert made == []
    lost = out / sorted(before)[2]
    lost.unlink()
    small(folder, out)
    assert made == [lost.name]
    assert checksums(out) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [({"img_size": 24}, "img_size"), ({"channels": 1}, "channels"), ({"shard_images": 5}, "shard_images")],
)
def test_other_settings_do_not_continue(folder, tmp_path, options, says):
    small(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match=f"was begun with another {says} .*another folder"):
        small(folder, tmp_path / "out", **options)


def test_a_changed_source_does_not_continue(folder, tmp_path):
    small(folder, tmp_path / "out")
    shutil.copy(folder / "train" / "cat" / "000.jpg", folder / "train" / "cat" / "new.jpg")
    with pytest.raises(ConfigError, match="another files"):
        small(folder, tmp_path / "out")


def damage(folder):
    (folder / "train" / "cat" / "002.jpg").write_bytes(b"no picture")
    path = folder / "train" / "dog" / "005.jpg"
    path.write_bytes(path.read_bytes()[:300])


# One shard of both classes, and several in several processes.
@pytest.mark.parametrize(("workers", "shard_images"), [(1, 100), (2, 4)])
def test_a_damaged_file_stops_or_is_skipped_and_recorded(folder, tmp_path, workers, shard_images):
    small(folder, tmp_path / "whole", shard_images=100)
    damage(folder)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"00[25]\.jpg .*--on_error skip"):
        small(folder, out, workers=workers, shard_images=shard_images)
    with pytest.raises(DataError, match=r"2 files cannot be read.* at most 1"):
        small(folder, out, workers=workers, shard_images=shard_images, skip_damaged=True, max_skipped=1)
    manifest = small(folder, out, workers=workers, shard_images=shard_images, skip_damaged=True, max_skipped=2)
    train = manifest["splits"]["train"]
    assert (train["num_images"], train["num_skipped"], train["class_counts"]) == (16, 2, [8, 8])
    skipped = [entry for shard in train["shards"] for entry in shard["skipped"]]
    assert [(entry["file"], entry["label"]) for entry in skipped] == [("cat/002.jpg", 0), ("dog/005.jpg", 1)]
    assert all("cannot read the image" in entry["reason"] for entry in skipped)
    # The others are what they were.
    ours, whole = (JiTDataModule(str(place), 16, random_flip=False) for place in (out, tmp_path / "whole"))
    for module in (ours, whole):
        module.setup("fit")
    kept = [i for i in range(18) if i not in (2, 14)]
    assert len(ours.dataset_train) == 16
    for index, before in enumerate(kept):
        assert (ours.dataset_train[index][0] == whole.dataset_train[before][0]).all()
        assert ours.dataset_train[index][1] == whole.dataset_train[before][1]
    # Without leave to skip, what was skipped before is an error as well.
    with pytest.raises(DataError, match="2 files cannot be read"):
        small(folder, out, workers=workers, shard_images=shard_images)


def test_a_class_of_damaged_files_is_an_error(folder, tmp_path):
    for path in (folder / "val" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no readable image .* class dog"):
        small(folder, tmp_path / "out", skip_damaged=True)


def test_places_that_cannot_be_the_target(folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"lies inside .*train"):
        small(folder, folder / "train" / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        small(folder, tmp_path / "full")
    with pytest.raises(MissingFileError, match="absent"):
        small(tmp_path / "absent", tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ConfigError, match=r"24 images need 1\.84e-05 GB .* free"):
        small(folder, tmp_path / "out")


def test_two_at_once_are_refused(folder, tmp_path):
    with locked(tmp_path / "out" / ".unfinished"), pytest.raises(ConfigError, match="in use by process"):
        small(folder, tmp_path / "out")
    small(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"max_skipped": -1}, {"shard_images": 0}, {"channels": 2}, {"img_size": 0}]
)
def test_arguments_out_of_range(folder, tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        small(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_command(folder, tmp_path, capfd):
    out = str(tmp_path / "out")
    words = ["prepare", str(folder), out, "--img-size", "16", "--workers", "1"]
    data_commands.data([*words, "--dry_run"])
    assert "would write 18 train images and 6 val images, 2 shards" in capfd.readouterr().err
    assert not Path(out).exists()
    data_commands.data(words)
    assert "train: 18 images, 1 shards" in capfd.readouterr().err
    damage(folder)
    with pytest.raises(DataError, match="on_error skip"):
        data_commands.data(["prepare", str(folder), out + "2", "--img_size", "16", "--workers", "1"])
    data_commands.data(["prepare", str(folder), out + "2", "--img_size", "16", "--workers", "1", "--on_error", "skip"])
    assert "train: 16 images, 2 skipped" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="'prepair'; did you mean prepare"):
        data_commands.data(["prepair"])
    data_commands.data([])
    assert "jitflow data check" in capfd.readouterr().out
