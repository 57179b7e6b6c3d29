"""Statistics of several extractors in one file, and files of one extractor as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow import cli
from jitflow.errors import ConfigError
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.features import PixelExtractor
from jitflow.evaluation.frechet import load_statistics, save_statistics
from jitflow.evaluation.reference import load_reference

SIZE = {"img_size": (8, 8), "channels": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    draws = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def statistics(folder, tmp_path_factory, shared_digits_classifier):
    out = tmp_path_factory.mktemp("statistics") / "real.npz"
    words = ["stats", str(folder), "--img_size", "8", "--channels", "1", "--num_workers", "0", "--keep_features", "5"]
    assert cli.main([*words, "--extractors", "pixels:2,digits-rotation", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("spec", ["pixels:2", "digits-rotation"])
def test_each_extractor_finds_its_own(folder, statistics, spec):
    extractor = make_extractor(spec)
    expected = load_reference(folder, extractor, **SIZE)
    found = load_reference(statistics, extractor, **SIZE)
    torch.testing.assert_close(found.statistics, expected.statistics)
    assert torch.equal(found.features, expected.spread(5))
    assert found.num_images == expected.num_images == 12


def test_other_tools_read_the_first(folder, statistics):
    with np.load(statistics) as arrays:
        assert arrays["mu"].shape == (4,) and arrays["digits-rotation/mu"].shape == (64,)
        assert str(arrays["digits-rotation/extractor"]) == "digits-rotation-cnn"
        assert '"feature"' in str(arrays["preprocessing"])
    expected = load_reference(folder, PixelExtractor(2), **SIZE).statistics
    torch.testing.assert_close(load_statistics(statistics), expected)


def test_what_does_not_fit_is_refused(statistics, tmp_path):
    with pytest.raises(ConfigError, match="pixels-1x2x2, digits-rotation-cnn"):
        load_reference(statistics, PixelExtractor(8), **SIZE)
    with pytest.raises(ConfigError, match="img_size"):
        load_reference(statistics, PixelExtractor(2), img_size=(16, 16), channels=1)
    # Of one extractor only, with another preprocessing.
    made = PixelExtractor(2)
    record = {"extractor": made.name, "extractor_sha256": "", "preprocessing": "{}"}
    save_statistics(tmp_path / "a.npz", np.zeros(4), np.eye(4), **record)
    with pytest.raises(ConfigError, match="preprocessing"):
        load_reference(tmp_path / "a.npz", made, **SIZE)


def test_the_same_extractor_twice(folder, tmp_path, capsys):
    words = ["stats", str(folder), "--img_size", "8", "--out", str(tmp_path / "a.npz")]
    assert cli.main([*words, "--extractors", "pixels:2,pixels:4"]) == 1
    assert "pixels twice" in capsys.readouterr().err
