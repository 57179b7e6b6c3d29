"""Images in an .npz as the real side of a score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.errors import ConfigError
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.reference import load_reference


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 10, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_in_an_npz_are_those_of_a_folder(tmp_path, images, channels, save):
    save(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(7))
    for index, pixels in enumerate(images):
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "folder" / f"{index}.png")
    found = [
        load_reference(spec, make_extractor("pixels"), img_size=(8, 8), channels=channels, batch_size=3)
        for spec in (tmp_path / "a.npz", tmp_path / "folder")
    ]
    assert found[0].record["num_images"] == 7
    assert found[0].record["pixels_sha256"] == found[1].record["pixels_sha256"]
    assert torch.equal(found[0].features, found[1].features)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros(3, np.uint8),
        np.asfortranarray(np.zeros((2, 8, 8, 3), np.uint8)),
    ],
    ids=["floats", "channels first", "no channels", "flat", "columns"],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array):
    np.savez(tmp_path / "a.npz", arr_0=array)
    with pytest.raises(ConfigError, match=r"a\.npz"):
        load_reference(tmp_path / "a.npz", make_extractor("pixels"), img_size=(8, 8), channels=3)


def test_a_home_folder_is_found(tmp_path, images, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "a.npz", arr_0=images)
    reference = load_reference("~/a.npz", make_extractor("pixels"), img_size=(8, 8), channels=3)
    assert reference.record["num_images"] == 7
