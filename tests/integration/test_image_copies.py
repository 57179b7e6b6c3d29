"""Copies of training images: a model that draws nothing else is found out, mirrored or not."""

import json

import numpy as np
import pytest
import torch
from evaluation_runs import make_module
from PIL import Image

from jitflow.data.digits import DigitsDataModule
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.reference import RealImages
from jitflow.io.file_tree import log_once
from jitflow.io.results_folder import free_folder
from jitflow.model import Model

OPTIONS = {"extractors": "pixels:8", "device": "cpu"}


@pytest.fixture(scope="module")
def scans():
    data = DigitsDataModule((16, 16))
    data.setup("fit")
    return data.dataset_train.images


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Evaluate a model that draws given images; the rest of it is as it was initialised."""

    def run(images, reference="digits", num=40):
        module = make_module()
        torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, tmp_path / "m.ckpt")
        x = images.float() / 127.5 - 1
        monkeypatch.setattr(module, "generate", lambda labels, use_ema=True: x[: len(labels)])
        out = free_folder(tmp_path / "out", lambda folder: folder.exists())
        plan = Plan(num, ema=0, steps=1)
        return evaluate(tmp_path / "m.ckpt", plan, reference=reference, out=out, model=Model(module), **OPTIONS), out

    return run


def test_a_model_that_repeats_its_training_is_found_out(judge, scans):
    report, out = judge(scans[100:140])
    assert report["metrics"]["copies"] == report["metrics"]["thumbnails/copies"] == 1
    assert report["intervals"]["copies"]["low"] > 0.9
    # Held-out scans are what would be a copy by chance.
    assert report["metrics"]["copies_validation"] < 0.03 and report["metrics"]["thumbnails/copies_validation"] < 0.03
    with Image.open(out / "nearest_thumbnails.png") as image:
        picture = np.asarray(image.convert("L"))
    # Ten pairs of 96 px with gaps of 2 px and a caption above each: copies look like what is below them.
    row_px = (picture.shape[0] - 2) // 2
    above, below = (picture[end - 96 : end] for end in (row_px, 2 * row_px))
    assert picture.shape[1] == 10 * 98 + 2 and np.array_equal(above, below) and above.std() > 50


def test_mirror_images_are_copies_among_the_pixels(judge, scans):
    report, _ = judge(scans[100:140].flip(-1))
    assert report["metrics"]["thumbnails/copies"] == 1 and report["metrics"]["copies"] < 0.5


def test_other_images_are_none(judge, scans):
    noise = torch.randint(0, 256, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    report, _ = judge(noise)
    assert report["metrics"]["copies"] == report["metrics"]["thumbnails/copies"] == 0
    assert 0 < report["intervals"]["copies"]["high"] < 0.1


def test_any_reference_of_images_is_searched_and_statistics_are_not(judge, scans, tmp_path, caplog):
    folder = tmp_path / "real"
    folder.mkdir()
    for index, image in enumerate(scans[:60]):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:03}.png")
    np.savez(tmp_path / "real.npz", arr_0=scans[:60].permute(0, 2, 3, 1).numpy())
    for reference in (folder, tmp_path / "real.npz"):
        report, _ = judge(scans[10:50], reference)
        assert report["metrics"]["thumbnails/copies"] == 1 and "copies_validation" not in report["metrics"]
        picked = RealImages(str(reference), (16, 16), 1, batch_size=7).pick([59, 3, 8])
        assert torch.equal(picked, scans[[59, 3, 8]])
    np.savez(tmp_path / "stats.npz", mu=np.zeros(64), sigma=np.eye(64))
    caplog.set_level("INFO")
    log_once.cache_clear()
    report, out = judge(scans[10:50], tmp_path / "stats.npz")
    assert not [name for name in report["metrics"] if "copies" in name]
    assert any("looked for" in line and "--reference" in line for line in caplog.messages)
    assert not list(out.glob("nearest_*")) and json.loads((out / "report.json").read_text())["trained_on"] == []
