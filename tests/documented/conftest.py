"""Images on disk, and the few names that the prefixes and checks share."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image


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
    return {"__name__": "documented", "fit": fit, "shaken": shaken, "index_order": index_order}


def shaken(module):
    """Move the weights off their initial values, with which every network gives 0."""
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
    defaults = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    # Every run is to see the same batches and draws.
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(**{**defaults, **quiet, **settings})
    trainer.fit(module, datamodule=datamodule)
    return trainer


def index_order(datamodule):
    """Return the indices of the training images in the order in which this process gets them."""
    return [i for batch in datamodule.train_dataloader() for i in batch.index.tolist()]
