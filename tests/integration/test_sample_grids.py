"""Grids of samples during a training."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
from evaluation_runs import StopEarly, assert_fails_before_training, fit, make_module
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from jitflow.callbacks.samples import SampleGridCallback
from jitflow.errors import ConfigError
from jitflow.pictures import caption_font

CAPTION_PX = sum(caption_font(64).getmetrics()) + 2
# Few images for so many dimensions is what these tests want.
pytestmark = pytest.mark.filterwarnings("ignore:num_images")


def test_grids_appear_and_repeat(tmp_path):
    for run in ("a", "b"):
        pl.seed_everything(1, verbose=False)
        fit(make_module(), SampleGridCallback(2, per_class=3, dirpath=tmp_path / run), epochs=3)
    for folder in ("a", "b"):
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == ["samples_epoch0002.png", "samples_epoch0003.png"]
    for name in names:
        first, second = (np.asarray(Image.open(tmp_path / run / name)) for run in ("a", "b"))
        assert np.array_equal(first, second) and len(np.unique(first)) > 10
    # Eight of ten classes in rows of three, each digit 64 px wide, with gaps of 2, and captions.
    assert first.shape == (8 * (66 + CAPTION_PX) + 2, 3 * 66 + 2)


def test_a_grid_of_chosen_labels_goes_to_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(make_module(), SampleGridCallback(5, [7, 10], per_class=20, seed=4, dirpath=tmp_path), logger=logger)
    sheet = np.asarray(Image.open(tmp_path / "samples_epoch0001.png"))
    assert sheet.shape == (2 * (66 + CAPTION_PX) + 2, 20 * 66 + 2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    (picture,) = events.Images("samples")
    assert (picture.height, picture.width, picture.step) == (*sheet.shape, 2)


def test_the_grid_of_an_early_stop_is_drawn(tmp_path):
    fit(make_module(), SampleGridCallback(5, per_class=1, dirpath=tmp_path), StopEarly(), epochs=9)
    assert [path.name for path in tmp_path.iterdir()] == ["samples_epoch0001.png"]


def test_bad_grid_settings(tmp_path):
    for settings in ({"every_n_epochs": 0}, {"per_class": 0}, {"labels": []}):
        with pytest.raises(ConfigError):
            SampleGridCallback(**settings)
    assert_fails_before_training(
        ConfigError, "11 is out of range", SampleGridCallback(labels=[3, 11], dirpath=tmp_path)
    )
