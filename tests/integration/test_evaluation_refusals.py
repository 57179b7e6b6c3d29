"""What an evaluation refuses before the training, and why there may be none."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from evaluation_runs import Classifying, assert_fails_before_training, fit, make_callback, make_module, reference
from PIL import Image

from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.cli import main
from jitflow.errors import ConfigError, MissingFileError
from jitflow.evaluation.frechet import save_statistics

# Few images for so many dimensions is what these tests want.
pytestmark = pytest.mark.filterwarnings("ignore:num_images")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 46}, r"num_images \(46\) .*\(5\).* the nearest is 45"),
        ({"num_images": 2}, "the nearest is 5"),
        ({"eval_freq": 0}, "eval_freq must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
def test_bad_numbers_fail_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_callback(**settings)


def test_documented_arguments_and_defaults():
    callback = FIDEvaluationCallback()
    documented = ("eval_freq", "num_images", "batch_size", "num_classes", "img_size", "use_ema")
    assert [getattr(callback, name) for name in documented] == [40, 50000, 256, 1000, 256, True]


def test_missing_statistics_fail_before_training(tmp_path):
    callback = make_callback(reference=None, folder=tmp_path / "fid_stats")
    assert_fails_before_training(MissingFileError, r"jit_in16_stats\.npz .*fid_stats", callback)
    assert_fails_before_training(MissingFileError, r"other\.npz", make_callback(reference=tmp_path / "other.npz"))


def test_statistics_from_a_folder_are_used(tmp_path):
    extractor = Classifying()
    save_statistics(tmp_path / "jit_in16_stats.npz", *reference(extractor))
    found = []
    for settings in ({"folder": tmp_path, "reference": None}, {"reference": tmp_path / "jit_in16_stats.npz"}, {}):
        callback = make_callback(**settings)
        fit(make_module(), callback)
        found.append(callback.metrics["eval/fid"])
    assert found[0] == found[1] == pytest.approx(found[2], rel=1e-9)


def test_what_does_not_fit_fails_before_training(tmp_path):
    wrong = (torch.zeros(3), torch.eye(3))
    assert_fails_before_training(ConfigError, "3 dimensions, but pixels-1x4x4 makes 16", make_callback(reference=wrong))
    negative = (torch.zeros(16), -torch.eye(16))
    assert_fails_before_training(ConfigError, "negative eigenvalue", make_callback(reference=negative))
    many = FIDEvaluationCallback(1, 20, 4, 20, 16, extractor=Classifying(), reference=wrong)
    assert_fails_before_training(ConfigError, "num_classes is 20, .* has 10", many)
    large = FIDEvaluationCallback(1, 20, 4, 10, 256, extractor=Classifying(), folder=tmp_path)
    assert_fails_before_training(ConfigError, "img_size is 256, .* 16 x 16", large)
    with pytest.raises(ConfigError, match="needs a jitflow module"):
        make_callback().setup(pl.Trainer(logger=False), pl.LightningModule(), "fit")


def test_missing_weights_fail_before_training(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    callback = FIDEvaluationCallback(1, 20, 4, 10, 16, reference=(torch.zeros(2048), torch.eye(2048)))
    assert_fails_before_training(MissingFileError, "Inception weights .* are missing", callback)


def test_an_evaluation_without_weights_names_an_extractor_that_needs_none(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "0.png")
    words = ["stats", str(tmp_path / "images"), "--img_size", "16", "--num_workers", "0"]
    assert main([*words, "--out", str(tmp_path / "a.npz")]) == 1
    assert "--extractors pixels" in capsys.readouterr().err


def test_guidance_that_was_never_trained_fails_before_training():
    callback = make_callback(reference=(torch.zeros(16), torch.eye(16)))
    module = make_module()
    module.cfg_scale, module.label_drop_prob = 2.0, 0.0
    with pytest.raises(ConfigError, match="label_drop_prob"):
        callback.setup(pl.Trainer(logger=False, accelerator="cpu"), module, "fit")


def test_too_few_images_are_warned_of():
    with pytest.warns(UserWarning, match=r"num_images \(10\).*\(16\).*at least 17"):
        make_callback(num_images=10).setup(pl.Trainer(logger=False, accelerator="cpu"), make_module(), "fit")


def test_why_it_is_unavailable(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "Inception weights" in FIDEvaluationCallback.unavailable(256, folder=tmp_path)
    weights = tmp_path / "weights.pth"
    weights.touch()
    assert "jit_in256_stats.npz" in FIDEvaluationCallback.unavailable(256, folder=tmp_path, weights_path=weights)
    save_statistics(tmp_path / "jit_in256_stats.npz", np.zeros(2), np.eye(2))
    assert FIDEvaluationCallback.unavailable(256, folder=tmp_path, weights_path=weights) is None
    assert "jit_in512" in FIDEvaluationCallback.unavailable(512, folder=tmp_path, weights_path=weights)
