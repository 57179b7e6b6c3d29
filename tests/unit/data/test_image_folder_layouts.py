"""What the image data module says about folders that are laid out otherwise, and about bad arguments."""

import pytest
from image_folders import make, write_image

from datas.datamodule import JiTDataModule
from jitflow.errors import ConfigError, DataError, MissingFileError


def empty_folder(path):
    path.mkdir()


def only_files(path):
    write_image(path / "a.png", 0)


def empty_train(path):
    (path / "train").mkdir(parents=True)


def files_in_train(path):
    write_image(path / "train" / "a.png", 0)


def class_without_images(path):
    write_image(path / "train" / "cat" / "a.png", 0)
    (path / "train" / "dog").mkdir()
    (path / "train" / "dog" / "notes.txt").write_text("no image")


def val_only(path):
    write_image(path / "val" / "cat" / "a.png", 0)


def other_val_classes(path):
    write_image(path / "train" / "cat" / "a.png", 0)
    write_image(path / "val" / "dog" / "a.png", 0)


@pytest.mark.parametrize(
    ("lay_out", "message"),
    [
        (empty_folder, "is empty.*train/<class>/<image>"),
        (only_files, "no class sub-folders.*train/<class>"),
        (empty_train, "train is empty.*train/<class>/<image>"),
        (files_in_train, "no class sub-folders.*train/<class>"),
        (class_without_images, "no images .*dog"),
        (val_only, "val/ but no train/"),
        (other_val_classes, "differ in cat, dog"),
    ],
)
def test_bad_layout_is_one_clear_line(tmp_path, lay_out, message):
    lay_out(tmp_path / "data")
    with pytest.raises(DataError, match=message) as caught:
        make(tmp_path / "data").setup("fit")
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path):
    for call in (JiTDataModule.prepare_data, JiTDataModule.setup):
        with pytest.raises(MissingFileError, match=r"absent.*train/<class>/<image>"):
            call(make(tmp_path / "absent"))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"img_size": 0},
        {"channels": 2},
        {"img_size": (8, 8, 8)},
        {"decoder": "quick"},
        {"val_fraction": 1.0},
        {"val_fraction": -0.1},
    ],
)
def test_bad_arguments(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make("anywhere", **options)
