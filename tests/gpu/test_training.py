"""Trainings on CUDA: resuming with deterministic algorithms, the defaults, and devices that are not there."""

import logging
import os

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from jitflow.errors import ConfigError
from jitflow.io.files import load_checkpoint
from jitflow.run.fit import fit

pytestmark = pytest.mark.gpu
# The package that a recipe may import for the classes of this file.
OWN = [__name__.partition(".")[0]]
# cuBLAS is deterministic only with a workspace of a fixed size, set before its first use.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Noise(pl.LightningDataModule):
    """Forty random images of five classes, in a fixed order."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(7)
        images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(40) % 5), batch_size=8)


class PowerCut(Exception):
    """Ends a training."""


class CutAt(pl.Callback):
    """Ends a training inside an epoch."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise PowerCut


def recipe(device, **trainer):
    net = {"model_name": "JiT-N/4", "img_size": 16, "num_classes": 5, "net_settings": {"depth": 2}}
    quiet = {"enable_progress_bar": False, "logger": False}
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return {
        "model": {"class_path": "jitflow.apps.images.module.JiTLightningModule", "init_args": net},
        "data": {"class_path": f"{__name__}.Noise", "init_args": {}},
        "trainer": {"accelerator": accelerator, "devices": 1, "max_epochs": 2, **quiet, **trainer},
        "checkpoint": {"save_last_freq": 1},
        "logging": {"tensorboard": None, "csv": None},
    }


def state(folder):
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, device, precision):
    settings = {"deterministic": True, "precision": precision}
    fit(recipe(device, **settings), tmp_path / "whole", allow_import=OWN)
    with pytest.raises(PowerCut):
        fit(
            recipe(device, **settings),
            tmp_path / "parts",
            callbacks=[CutAt(7)],
            allow_import=OWN,
        )
    assert state(tmp_path / "parts")["global_step"] == 5
    fit(recipe(device, **settings), tmp_path / "parts", allow_import=OWN)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole["global_step"] == parts["global_step"] == 10
    for section in ("state_dict", "model_ema1", "model_ema2"):
        assert whole[section].keys() == parts[section].keys()
        for name, value in whole[section].items():
            assert torch.equal(value, parts[section][name]), (section, name)
    moments = [s["optimizer_states"][0]["state"] for s in (whole, parts)]
    for place, values in moments[0].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][place][name])), (place, name)


def test_lightning_has_no_advice_about_tensor_cores(tmp_path, device, caplog):
    with caplog.at_level(logging.INFO):
        fit(recipe(device, max_steps=1), tmp_path / "run", allow_import=OWN)
    assert "Tensor Cores" not in caplog.text


def test_more_devices_than_there_are_are_refused_before_training(tmp_path, device):
    """On one GPU DDP over two; on a CPU any GPU."""
    devices = max(2, torch.cuda.device_count() + 1)
    wanted = recipe(device, accelerator="gpu", devices=devices, strategy="ddp")
    with pytest.raises(ConfigError, match=r"trainer: .*gpu"):
        fit(wanted, tmp_path / "run", allow_import=OWN)
    assert not (tmp_path / "run").exists()


def test_the_sampled_model_of_a_run_is_that_of_the_cpu(tmp_path, device):
    """A run's checkpoint, sampled on the device and on the CPU in float32."""
    import jitflow

    fit(recipe(device), tmp_path / "run", allow_import=OWN)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    here, there = (
        jitflow.load(path, device=name).sample([0, 1], steps=3, precision="32").pixels.int() for name in (device, "cpu")
    )
    # Levels of 256; TF32 on CUDA.
    assert (here - there).abs().max() <= 4
