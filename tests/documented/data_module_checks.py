"""Checks of the blocks that document the data module."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from documented_checks import check
from PIL import Image

from jitflow.apps.images.module import JiTLightningModule


@check("data_module 1")
def _(ns):
    from datas.datamodule import JiTDataModule

    values = ("./elsewhere", 64, 2, 3, False, 8, 5)
    data = JiTDataModule(*values)
    assert [getattr(data, name) for name in inspect.signature(ns["JiTDataModule"]).parameters] == list(values)


@check("data_module 2")
def _(ns):
    from datas.datamodule import center_crop_arr

    rng = np.random.default_rng(0)
    for height, width in ((30, 40), (101, 67), (16, 16), (300, 45), (9, 11)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        printed, ours = ns["center_crop_arr"](image, 16), center_crop_arr(image, 16)
        assert printed.size == ours.size == (16, 16)
        assert np.array_equal(np.array(printed), np.array(ours)), (height, width)


@check("data_module 3")
def _(ns):
    from datas.datamodule import JiTDataModule

    ours = JiTDataModule(img_size=16)._get_train_transforms()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    flipped = set()
    for seed in range(8):
        results = []
        for transform in (ns["transform_train"], ours):
            torch.manual_seed(seed)
            results.append(transform(image))
        assert results[0].dtype == torch.uint8
        assert torch.equal(*results)
        flipped.add(results[0].sum(dim=(0, 1))[0].item())
    assert len(flipped) == 2


@check("data_module 4")
def _(ns):
    assert (ns["info"]["num_samples"], ns["info"]["num_classes"]) == (32, 2)
    batches = [(images, labels) for images, labels in ns["train_loader"]]
    assert len(batches) == 8
    assert batches[0][0].shape == (4, 3, 16, 16)
    assert batches[0][0].dtype == torch.uint8
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == [0] * 16 + [1] * 16


@check("data_module 5")
def _(ns):
    assert ns["trainer"].global_step == 8


@check("data_module 6")
def _(ns):
    from datas.datamodule import JiTDataModule

    # 32 images for 8 processes.
    assert [len(order) for order in ns["orders"]] == [4, 4]
    assert ns["orders"][0] != ns["orders"][1]
    parts = [
        JiTDataModule("./data/imagenet", 16, batch_size=2, num_workers=0, num_replicas=8, rank=r) for r in range(8)
    ]
    assert sorted(i for part in parts for i in ns["index_order"](part)) == list(range(32))
    model = ns["tiny"](JiTLightningModule)
    ns["trainer"].fit(model, datamodule=ns["datamodule"])
    # One process of a trainer without others, which keeps the part it was given.
    assert ns["trainer"].global_step == 2


@check("data_module 7")
def _(ns):
    data = ns["datamodule"]
    assert (data.data_path, data.img_size, data.batch_size) == ("./data/imagenet", 16, 4)
    assert (data.num_workers, data.pin_memory, data.num_replicas, data.rank) == (12, True, 1, None)
    assert sorted(ns["index_order"](data)) == list(range(32))


@check("data_module 8")
def _(ns):
    from datas.datamodule import JiTDataModule

    data, plain = ns["datamodule"], JiTDataModule(img_size=16, batch_size=4, num_workers=0)
    plain.setup("fit")
    image = Image.open(plain.dataset_train.samples[0][0])
    torch.manual_seed(0)
    jittered = data.dataset_train.transform(image)
    torch.manual_seed(0)
    assert not torch.equal(plain.dataset_train.transform(image), jittered)
    assert jittered.shape == (3, 16, 16)


@check("data_module 9")
def _(ns):
    assert len(ns["datamodule"].dataset_val) == 8
    # The loader is torch's own and its batches are plain lists; validation works with them all the same.
    assert type(ns["datamodule"].val_dataloader()).__module__.startswith("torch.")
    assert torch.isfinite(ns["trainer"].callback_metrics["val/loss"])


@check("data_module 10")
def _(ns):
    assert (ns["datamodule"].batch_size, ns["datamodule"].img_size) == (64, 512)


@check("data_module 11")
def _(ns):
    assert ns["model"].hparams.img_size == 256


@check("data_module 12")
def _(ns):
    assert [type(c).__name__ for c in ns["callbacks"]][:4] == [
        "EMACallback",
        "JiTModelCheckpoint",
        "LearningRateSchedulerCallback",
        "MetricLoggerCallback",
    ]
