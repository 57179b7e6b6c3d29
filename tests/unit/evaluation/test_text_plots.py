"""The accuracy plot is a picture, shows what it was given, and leaves nothing behind when it fails."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from jitflow.apps.text.plots import plot_accuracy
from jitflow.errors import DataError


def test_curves_in_order_of_time_with_their_names(tmp_path, monkeypatch):
    drawn = {}
    plot = Axes.plot

    def record(self, x, y, **style):
        drawn[style["label"]] = (x, y)
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", record)
    path = tmp_path / "new" / "accuracy.png"
    plot_accuracy(path, {"ours": {0.5: 0.9, 0.1: 0.3}}, baselines={"unigram": {0.1: 0.14, 0.5: 0.14}}, title="x")
    assert drawn == {"unigram": ([0.1, 0.5], [0.14, 0.14]), "ours": ([0.1, 0.5], [0.3, 0.9])}
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape == (440, 770, 3)
    assert (pixels.astype(int) == (0x1F, 0x6F, 0xB4)).all(axis=-1).sum() > 200


def test_an_empty_curve_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="'ours' has no points"):
        plot_accuracy(tmp_path / "a.png", {"ours": {}})
    assert list(tmp_path.iterdir()) == []
