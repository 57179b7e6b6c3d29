"""Names of classes: from the data into every format of checkpoints, requests, file names and captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import jitflow
from jitflow import pictures
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.checkpoint.convert import convert
from jitflow.errors import CheckpointError, ConfigError
from jitflow.evaluation.image_files import save_png
from jitflow.evaluation.plan import Plan
from jitflow.inspect.info import describe_path
from jitflow.io.file_tree import log_once
from jitflow.model import Model
from jitflow.training.asked import first_classes

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_len": 2}
NAMES = ["tench, Tinca tinca", "black cat", "dog", "10", "\u732b", "a/b"]


def make(names=NAMES):
    module = JiTLightningModule("JiT-N/4", img_size=8, num_classes=6, num_sampling_steps=1, net_settings=NET)
    module.adopt_data({"classes": names})
    return module


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ("dog,black cat", [2, 1]),
        ("0-2, dog,6", [0, 1, 2, 2, 6]),
        ("dog,tench, Tinca tinca,\u732b", [2, 0, 4]),
        (["tench, Tinca tinca", 3, "dog"], [0, 3, 2]),
        (torch.tensor([5, 0]), [5, 0]),
        ("all", list(range(6))),
    ],
)
def test_labels_are_numbers_or_names(labels, chosen):
    assert Model(make()).ask(labels).labels == chosen


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("dog,Dog", "did you mean dog"),
        ("black-cat", "did you mean black cat"),
        (["bird"], "name in labels 'bird'"),
        ("10", "the class named 10 is label 3"),
        ("10", "classes 0 to 5"),
        ("dog,", "labels must look like"),
        ("1-", "labels must look like"),
    ],
)
def test_a_wrong_name_is_one_error_with_the_nearest(labels, said):
    with pytest.raises(ConfigError, match=said):
        Model(make()).ask(labels)


def test_a_number_is_a_label_and_a_class_of_that_name_is_hinted_at(caplog):
    log_once.cache_clear()
    model = Model(make(["0", "1", "10", "11", "2"]))
    caplog.clear()
    assert model.ask("1").labels == [1] and not caplog.text
    asked = model.ask("2")
    assert (asked.labels, asked.names, asked.captions) == ([2], ["10"], ["10"]) and "2 is label 4" in caplog.text


def test_a_padded_number_or_a_range_that_is_another_class_is_hinted_at(caplog):
    log_once.cache_clear()
    model = Model(make(["0001", "0002", "1-2", "1_0", "+1", "all"]))
    assert model.ask("0001").labels == [1] and "0001 is label 0" in caplog.text
    assert model.ask("1-2").labels == [1, 2] and "1-2 is label 2" in caplog.text
    assert model.ask(" all ").labels == list(range(6)) and "named all is label 5" in caplog.text
    caplog.clear()
    # Only digits are numbers, whatever else Python reads as one.
    assert model.ask("1_0,+1,all").labels == [3, 4, 5] and not caplog.text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["cat", "dog", "owl", "crow", "hen"], "cat,dog,owl,crow"),
        (["a b", " lead", "3d", "x,y"], "a b, lead,3d,x,y"),
        (NAMES, "0,1,2,3"),
        (["0", "1", "10", "11", "2"], "0,1,2,3"),
        (["1-2", "b"], "0,1"),
        (["a", "b,c", "a,b"], "0,1,2"),
        ([" a", "a"], "0,1"),
        (["all"], "0"),
    ],
)
def test_the_first_classes_are_named_where_the_names_mean_them(names, text):
    module = JiTLightningModule("JiT-N/4", img_size=8, num_classes=len(names), net_settings=NET)
    module.adopt_data({"classes": names})
    assert first_classes(module) == text
    assert Model(module).ask(text).labels == list(range(min(4, len(names))))


def test_file_names_are_safe_and_say_the_class_where_there_is_no_name():
    model = Model(make())
    names = model.sample([0, 1, 3, 4, 5, 6], steps=1, ema=0).file_names()
    parts = ["tench-Tinca-tinca", "black-cat", "10", "\u732b", "a-b", "class6"]
    assert names == [f"{i:06d}_{part}_seed{i}.png" for i, part in enumerate(parts)]
    # Names whose safe forms are the same.
    asked = Model(make(["a b", "a_b", "a:b", "!", "class3", "a-b-class0"])).ask()
    assert asked.names == [
        "a-b-class0-class0",
        "a_b",
        "a-b-class2",
        "class3-class3",
        "class3-class4",
        "a-b-class0-class5",
    ]
    # Names that are the labels' numbers say nothing.
    assert Model(make([str(y) for y in range(6)])).ask([3]).names == ["class3"]
    assert Model(make([])).ask([3]).captions == ["class 3"]


def test_classes_without_data_are_named_before_a_training(caplog):
    caplog.set_level("INFO")
    log_once.cache_clear()
    make(NAMES[:4])
    assert "labels from 4" in caplog.text and "num_classes=4" in caplog.text
    caplog.clear()
    make(NAMES)
    assert not caplog.text


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
def test_names_travel_with_every_format(tmp_path, suffix):
    module = make()
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "epoch": 1}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "first.ckpt")
    there = tmp_path / f"there{suffix}"
    convert(tmp_path / "first.ckpt", there, ema=0)
    convert(there, tmp_path / "back.ckpt")
    for path in (there, tmp_path / "back.ckpt"):
        assert jitflow.load(path, device="cpu").module.class_names == tuple(NAMES)
        assert "1 black cat" in describe_path(path).facts["classes"]


@pytest.mark.parametrize("names", ["cat", ["cat", 3], ["a"] * 7])
def test_damaged_names_are_an_error(names):
    with pytest.raises(CheckpointError, match="classes"):
        make().load_extra_state({"classes": names})


def test_users_are_chosen_by_name_too():
    module = UserConditionedDiT(
        2, "LightningDiT", (4, 2, 2), net_settings={"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 1}
    )
    module.user_ids = [3, 12]
    assert module.class_names == ("user03", "user12")
    assert module.describe_labels() == {"classes": ["user03", "user12"], "user_of_label": [3, 12]}


def test_a_grid_has_a_caption_above_each_run_of_equal_ones():
    drawn = Model(make()).sample(["dog", "dog", "black cat", "\u732b"], steps=1, ema=0)
    plain = np.asarray(pictures.grid(drawn.pixels.numpy(), columns=2, scale=8))
    grid = np.asarray(drawn.grid(columns=2))
    caption_px = (grid.shape[0] - plain.shape[0]) // 2
    assert caption_px > 8
    for row in range(2):
        top = 2 + row * (caption_px + 64 + 2)
        shown = plain[2 + row * 66 : 2 + row * 66 + 64]
        assert np.array_equal(grid[top + caption_px : top + caption_px + 64], shown)
    inked = [grid[2 : 2 + caption_px, :66].min() < 128, grid[2 : 2 + caption_px, 80:].min() < 128]
    # The second image of the first row has the caption of the first.
    assert inked == [True, False]
    assert pictures.can_draw("\u00e9") and not pictures.can_draw("\u732b") and not pictures.can_draw("a\nb")
    assert Model(make(["a\nb", "c"])).sample([0, 1], steps=1, ema=0).grid().size == (2 * 66 + 2, caption_px + 68)


def test_a_long_caption_is_truncated():
    font = pictures.caption_font(64)
    text = pictures.truncate("a very long name of a class", font, 64)
    assert text.startswith("a v") and text.endswith("...") and font.getlength(text) <= 64
    assert pictures.truncate("dog", font, 64) == "dog" and pictures.truncate("dog", font, 1) == ""


def test_images_of_an_evaluation_have_the_names(tmp_path):
    save_png(tmp_path, [torch.zeros(3, 1, 4, 4, dtype=torch.uint8)], Plan(3, 5), ["cat", "dog"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{i:06d}_{name}_seed{5 + i}.png" for i, name in enumerate(("cat", "dog", "cat"))
    ]
    with Image.open(tmp_path / "000001_dog_seed6.png") as image:
        assert image.size == (4, 4)


def test_settings_hold_the_names_of_what_was_drawn(tmp_path):
    Model(make()).sample(["dog", 1], steps=1, ema=0).save(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["classes"] == {"1": "black cat", "2": "dog"}
