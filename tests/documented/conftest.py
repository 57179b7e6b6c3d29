"""Images on disk, and the few names that the prefixes and checks share."""

import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from PIL import Image

# For the two modules beside the tests; `tests` itself is no package.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def digits_classifier(shared_digits_classifier):
    """tests/unit/evaluation/test_digits_features.py trains it anew; here it is only used."""


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Two classes of 16 training and 4 validation images, 40 x 30 px."""
    root = tmp_path_factory.mktemp("documented") / "imagenet"
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for name in ("n01440764", "n01443537"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{name}_{i}.JPEG")
    return root


@pytest.fixture
def names(tmp_path, image_folder, monkeypatch):
    """Stand in a folder where the documents' ``./data/imagenet`` exists; return the helpers as a namespace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagenet").symlink_to(image_folder, target_is_directory=True)
    torch.manual_seed(0)
    return {"__name__": "documented", "fit": fit, "tiny": tiny, "index_order": index_order}


TINY = {
    "model_name": "JiT-N/4",
    "img_size": 16,
    "num_classes": 5,
    "num_sampling_steps": 3,
    "net_settings": {"depth": 2, "in_context_start": 1},
}


def tiny(cls, **settings):
    """Build a small module of a class, always with the same weights, which give samples other than 0."""
    torch.manual_seed(0)
    module = cls(**{**TINY, **settings})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module


def fit(module, datamodule=None, **settings):
    """Train one epoch on the images of the working folder."""
    from datas.datamodule import JiTDataModule

    if datamodule is None:
        datamodule = JiTDataModule(img_size=16, batch_size=4, num_workers=0)
    saves = any(isinstance(c, Checkpoint) for c in settings.get("callbacks", ()))
    defaults = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": saves}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    # Every run is to see the same batches and draws.
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(**{**defaults, **quiet, **settings})
    trainer.fit(module, datamodule=datamodule)
    return trainer


def index_order(datamodule):
    """Return the indices of the training images in the order in which this process gets them."""
    return [i for batch in datamodule.train_dataloader() for i in batch.index.tolist()]
