"""A tiny module and tiny data in memory."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from jitflow.apps.images.module import JiTLightningModule

TINY = {"model_name": "JiT-N/4", "img_size": 8, "num_classes": 5, "num_sampling_steps": 4}


@pytest.fixture
def make_module():
    """Build a module whose weights are shaken, so that its output is not 0."""

    def make(cls=JiTLightningModule, **overrides):
        torch.manual_seed(0)
        module = cls(**{**TINY, **overrides})
        with torch.no_grad():
            for p in module.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn_like(p))
        return module

    return make


@pytest.fixture
def loader():
    """Ten batches of four images."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(40) % 5), batch_size=4)


@pytest.fixture
def make_trainer(tmp_path):
    """Build a silent trainer on the CPU."""

    def make(**overrides):
        settings = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "max_epochs": 1,
        }
        return pl.Trainer(**{**settings, **overrides})

    return make
