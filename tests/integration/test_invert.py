"""`jitflow invert`: image, noise, and the image again."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

from jitflow import pictures
from jitflow.cli import main
from jitflow.core.inversion import clamp_times
from jitflow.core.solver import integrate
from jitflow.core.times import time_grid
from jitflow.data.digits import DigitsDataModule
from jitflow.model import load

SMALL = Path(__file__).parents[1] / "data" / "checkpoints_7ea7bf0"


@pytest.fixture
def images(quick_demo, tmp_path):
    """Four digits of the validation, as files."""
    data = DigitsDataModule(batch_size=4, num_workers=0)
    data.setup("fit")
    for i in range(4):
        pixels, label = data.dataset_val[i]
        pictures.save_image(pictures.to_image(pixels.numpy()), tmp_path / "images" / f"{i}_digit{label}.png")
    return tmp_path / "images"


def test_images_come_back_from_their_noise(quick_demo, images, tmp_path, capsys):
    (checkpoint,) = Path(quick_demo).rglob("last.ckpt")
    words = ["invert", checkpoint, images, "--labels", 3, "--steps", 20, "--device", "cpu", "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 0
    record = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert record["steps"] == 20 and record["guidance"] == 1 and record["ends"] == [0.05, 0.95]
    names = [f"{i:06d}_{path.stem}" for i, path in enumerate(sorted(images.iterdir()))]
    assert list(record["images"]) == names
    assert all(each["error"] < 1e-2 and each["residual"] < 1e-3 for each in record["images"].values())
    assert all((tmp_path / "out" / f"{name}.png").is_file() for name in [*names, "grid"])
    noise = load_file(tmp_path / "out" / "noise.safetensors")["noise"]
    # So short a training makes no noise of unit variance yet; it is the state that the steps forwards start from.
    assert noise.shape == (4, 1, 16, 16) and noise.isfinite().all()
    module = load(checkpoint, device="cpu").module
    labels = torch.full((4,), 3)
    with module.ema_weights(), torch.no_grad(), module.sampling(cfg_scale=1.0):
        ends = integrate(
            lambda x, t: module._forward_sample(x, t, labels), noise, clamp_times(time_grid(20), 0.05, 0.95)
        )
    error = (
        (ends[0] - module.codec.encode(pil_to_tensor(Image.open(sorted(images.iterdir())[0])))).square().mean().sqrt()
    )
    assert error < 1e-2
    assert "000000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("microdoppler_recipe", [], "pixels"),
        ("text_recipe", [], "codec of its own"),
        ("images_recipe", ["--churn", "1"], "churn"),
        ("images_recipe", ["--solver", "multistep"], "multistep"),
        ("images_recipe", ["--labels", "0,1,0"], "labels"),
        ("images_recipe", ["--iterations", "0"], "iterations"),
    ],
)
def test_what_cannot_be_inverted_is_one_error(model, words, said, tmp_path, capsys):
    checkpoint, images = SMALL / model / "checkpoints" / "last.ckpt", SMALL / "data" / "images" / "train"
    given = ["invert", checkpoint, images, "--device", "cpu", "--out", tmp_path / "out", "--steps", 3, *words]
    assert main(list(map(str, given))) == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and said in error
