"""One lister of files: all readers see the same files of one tricky tree."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.images.check import check_folder
from jitflow.apps.images.data import JiTDataModule
from jitflow.apps.images.prepare import prepare
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.apps.text.files import TextFiles
from jitflow.data.folder_scan import list_images
from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.reference import ImageFiles
from jitflow.inspect.doctor import check_data
from jitflow.io.file_tree import list_tree, log_once
from jitflow.run.fit import fit
from jitflow.training.class_names import safe_name

MODULE = "jitflow.apps.images.module.JiTLightningModule"
NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_len": 2}


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_text(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"words of {path.name} and hills")


def grow(root, store, write, suffix):
    """Two classes, one behind a link; nested folders, a folder linked twice, a loop, and what systems leave behind."""
    for name in ("a", "b"):
        write(root / "user1" / f"{name}{suffix}")
        write(store / "user2" / f"{name}{suffix}")
        write(store / "session" / f"{name}{suffix}")
    write(root / "user1" / "deep" / "er" / f"C{suffix.upper()}")
    (root / "user2").symlink_to(store / "user2")
    (root / "user1" / "session").symlink_to(store / "session")
    (root / "user1" / "session_again").symlink_to(store / "session")
    (root / "user1" / "loop").symlink_to(root)
    (root / "user1" / f"linked{suffix}").symlink_to(store / "user2" / f"a{suffix}")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        write(root / name / f"a{suffix}")
        write(root / "user1" / name / f"a{suffix}")
    write(root / "user1" / f"._a{suffix}")
    (root / "user1" / ".DS_Store").write_bytes(b"x")
    (root / "user1" / "Thumbs.db").write_bytes(b"x")


USER1 = {"a", "b", "deep/er/C", "linked", "session/a", "session/b"}
EXPECTED = {f"user1/{name}" for name in USER1} | {"user2/a", "user2/b"}


def names(root, files):
    return sorted(os.path.splitext(os.path.relpath(file, root))[0] for file in files)  # noqa: PTH122


@pytest.fixture
def tree(tmp_path):
    log_once.cache_clear()
    grow(tmp_path / "data", tmp_path / "store", write, ".png")
    return tmp_path / "data"


def test_every_reader_of_images_sees_the_same_files(tree, tmp_path):
    expected = sorted(EXPECTED)
    listing = list_images(tree)
    assert listing.classes == ("user1", "user2")
    assert names(tree, [tree / file for file in listing.files]) == expected
    data = JiTDataModule(str(tree), img_size=8, batch_size=2, num_workers=0)
    data.setup()
    assert names(tree, [path for path, _ in data.dataset_train.samples]) == expected
    assert names(tree, ImageFiles(tree, 8).files) == expected
    users = find_user_images(tree, val_fraction=0.3)
    assert names(tree, [image.path for image in (*users.train, *users.val)]) == expected
    report, findings = check_folder(tree, tmp_path / "check", workers=1)
    assert report["num_images"] == {"train": len(expected)} and report["num_classes"] == {"train": 2}
    left_out = next(f for f in findings if f.kind == "left_out").files
    assert {"@eaDir/", "user1/.ipynb_checkpoints/", "user1/._a.png"} <= {found.file for found in left_out}
    assert "2 classes" in check_data(tree).message
    prepare(tree, tmp_path / "prepared", img_size=8, workers=1)
    shards = JiTDataModule(str(tmp_path / "prepared"), img_size=8, batch_size=2, num_workers=0)
    assert shards.get_dataset_info()["num_samples"] == len(expected)


def test_the_reader_of_texts_sees_them_too(tmp_path):
    grow(tmp_path / "data", tmp_path / "store", write_text, ".txt")
    texts = TextFiles(tmp_path / "data")
    assert names(tmp_path / "data", texts.files) == sorted(EXPECTED)
    assert sum(piece.starts for piece in texts.pieces()) == len(EXPECTED)


def test_what_is_left_out_is_said_in_one_line(tree, caplog):
    caplog.set_level(logging.INFO)
    (tree / "user2" / "notes.txt").write_text("x")
    for _ in range(2):
        JiTDataModule(str(tree), img_size=8, num_workers=0, batch_size=2).setup()
    lines = [record.message for record in caplog.records]
    assert sum(".ipynb_checkpoints" in line for line in lines) == 1
    assert sum("notes.txt" in line for line in lines) == 1
    assert not any("DS_Store" in line or "Thumbs" in line for line in lines)


def test_folders_beside_train_are_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for split in ("train", "valid", "test"):
        write(tmp_path / "data" / split / "cat" / "a.png")
    data = JiTDataModule(str(tmp_path / "data"), img_size=8, num_workers=0, batch_size=1)
    data.setup()
    assert data.get_dataset_info()["num_samples"] == 1 and "test, valid" in caplog.text
    _, findings = check_folder(tmp_path / "data", tmp_path / "out", workers=1)
    assert {f.file for f in next(f for f in findings if f.kind == "unused_folder").files} == {"test/", "valid/"}


def test_a_folder_of_hidden_classes_alone_says_so(tmp_path):
    write(tmp_path / ".ipynb_checkpoints" / "a.png")
    with pytest.raises(DataError, match="ipynb"):
        list_images(tmp_path)


def test_a_link_that_leads_nowhere_counts_as_a_file(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert [path.name for path in list_tree(tmp_path).files((".png",))] == ["a.png"]


# ------------------------------------------------------------------------------------------------ names of classes


def recipe(data, num_classes, **trainer):
    return {
        "model": {
            "class_path": MODULE,
            "init_args": {"model_name": "JiT-N/4", "img_size": 8, "num_classes": num_classes, "net_settings": NET},
        },
        "data": {
            "class_path": "jitflow.apps.images.data.JiTDataModule",
            "init_args": {"data_path": str(data), "img_size": 8, "batch_size": 2, "num_workers": 0},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, **trainer},
        "schedule": {"warmup_epochs": 0},
    }


def test_names_travel_with_a_run_and_another_list_is_refused(tmp_path):
    import jitflow
    from jitflow.inspect.info import describe_path

    for number in range(12):
        write(tmp_path / "data" / str(number) / "a.png")
    run = fit(recipe(tmp_path / "data", 20), tmp_path / "run")
    assert "2 10" in describe_path(run.checkpoint).facts["classes"]
    drawn = jitflow.load(run.checkpoint, device="cpu").sample(labels=[2, 1], seeds=[0, 1], steps=1)
    assert drawn.file_names() == ["000000_10_seed0.png", "000001_1_seed1.png"]
    assert drawn.settings["classes"] == {"1": "1", "2": "10"}
    write(tmp_path / "data" / "00" / "a.png")
    before = run.checkpoint.read_bytes()
    with pytest.raises(ConfigError, match="00"):
        fit(recipe(tmp_path / "data", 20, max_epochs=2), tmp_path / "run", run.checkpoint)
    assert run.checkpoint.read_bytes() == before
    again = fit({**recipe(tmp_path / "data", 20), "init_from": str(run.checkpoint)}, tmp_path / "new")
    assert again.state == "finished"


def test_numbers_in_the_order_of_letters_are_hinted_at(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number in (0, 1, 2, 10):
        write(tmp_path / "data" / str(number) / "a.png")
        write(tmp_path / "padded" / f"{number:02d}" / "a.png")
    JiTDataModule(str(tmp_path / "padded"), img_size=8, num_workers=0, batch_size=1).setup()
    assert "order of letters" not in caplog.text
    JiTDataModule(str(tmp_path / "data"), img_size=8, num_workers=0, batch_size=1).setup()
    assert "10 is label 2" in caplog.text


@pytest.mark.parametrize(
    ("name", "safe"), [("black cat", "black-cat"), ("a/b", "a-b"), ("..", ""), ("Größe", "Größe"), ("x" * 90, "x" * 40)]
)
def test_names_are_safe_in_names_of_files(name, safe):
    assert safe_name(name) == safe
