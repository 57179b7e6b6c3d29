"""The documented image data module and its documented subclasses."""

import argparse
import inspect
import os

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from image_folders import make, write_image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from datas.datamodule import JiTDataModule, center_crop_arr, create_jit_datamodule
from jitflow.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", seed=100 * label + i)
    return tmp_path


def images_by_index(loader):
    return {int(i): image for batch in loader for i, image in zip(batch.index, batch.images, strict=True)}


def test_documented_signature_and_attributes(tmp_path):
    documented = {
        "data_path": "./data/imagenet",
        "img_size": 256,
        "batch_size": 128,
        "num_workers": 12,
        "pin_memory": True,
        "num_replicas": None,
        "rank": None,
    }
    parameters = list(inspect.signature(JiTDataModule).parameters.values())[: len(documented)]
    assert {p.name: p.default for p in parameters} == documented
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    module = JiTDataModule(tmp_path / "absent")  # creating it does not touch the disk
    assert isinstance(module, pl.LightningDataModule)
    assert (module.img_size, module.batch_size, module.num_workers, module.pin_memory) == (256, 128, 12, True)


def test_loaders_and_info(folder):
    module = make(folder)
    module.prepare_data()
    module.setup("fit")
    info = module.get_dataset_info()
    assert (info["num_samples"], info["num_classes"], info["classes"]) == (10, 2, ["cat", "dog"])
    assert info["img_size"] == module.img_size == 8
    assert isinstance(module.dataset_train, datasets.ImageFolder)
    loader = module.train_dataloader()
    assert len(loader) == 2
    images, labels = next(iter(loader))
    assert images.shape == (4, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    val = list(module.val_dataloader())
    assert [i for batch in val for i in batch.index.tolist()] == [0, 1, 2, 3]
    assert [y for batch in val for y in batch.labels.tolist()] == [0, 0, 1, 1]


def test_pixels_are_the_crop_or_its_mirror_image_and_labels_match(folder):
    loader = make(folder, drop_last=False).train_dataloader()
    dataset = datasets.ImageFolder(folder / "train")
    flipped = 0
    for batch in loader:
        for image, label, index in zip(batch.images, batch.labels, batch.index, strict=True):
            crop = np.array(center_crop_arr(dataset[index][0], 8)).transpose(2, 0, 1)
            assert label == dataset[index][1]
            mirrored = np.array_equal(image, crop[:, :, ::-1])
            assert mirrored or np.array_equal(image, crop)
            flipped += mirrored
    assert 0 < flipped < 10


def test_flips_depend_on_seed_and_epoch(folder):
    def pictures(seed, epoch):
        module = make(folder, seed=seed, drop_last=False)
        loader = module.train_dataloader()
        module.set_epoch(epoch)
        found = images_by_index(loader)
        return torch.stack([found[i] for i in range(10)])

    assert torch.equal(pictures(0, 1), pictures(0, 1))
    assert len({pictures(s, e).numpy().tobytes() for s in range(2) for e in range(2)}) == 4


def test_set_epoch_before_the_loader_counts(folder):
    early, late = make(folder), make(folder)
    early.set_epoch(3)
    first = [batch.index.tolist() for batch in early.train_dataloader()]
    loader = late.train_dataloader()
    late.set_epoch(3)
    assert first == [batch.index.tolist() for batch in loader]


def test_no_flip_greyscale_rectangle(folder):
    loader = make(folder, img_size=(8, 12), channels=1, random_flip=False, drop_last=False).train_dataloader()
    dataset = datasets.ImageFolder(folder / "train")
    for index, image in images_by_index(loader).items():
        crop = np.array(center_crop_arr(dataset[index][0].convert("L"), (8, 12)))
        np.testing.assert_array_equal(image[0], crop)


def test_workers_do_not_change_batches(folder):
    def batches(workers):
        return [(b.images, b.index) for b in make(folder, num_workers=workers).train_dataloader()]

    for (images, index), (others, other_index) in zip(batches(0), batches(2), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(index, other_index)


def test_seed_none_follows_seed_everything(folder, monkeypatch):
    def order(**options):
        return [batch.index.tolist() for batch in make(folder, **options).train_dataloader()]

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert order(seed=None) == order(seed=0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert order(seed=None) == order(seed=7) != order(seed=0)


def test_num_replicas_and_rank_without_a_trainer(folder):
    shares = [make(folder, num_replicas=2, rank=r, batch_size=1).train_dataloader() for r in range(2)]
    seen = [list(images_by_index(share)) for share in shares]
    assert [len(s) for s in seen] == [5, 5]
    assert sorted(seen[0] + seen[1]) == list(range(10))
    with pytest.raises(ConfigError, match="rank"):
        make(folder, num_replicas=2).train_dataloader()


def test_num_workers_is_capped_at_the_cores(folder, monkeypatch, recwarn):
    monkeypatch.setattr("jitflow.data.loader.available_cores", lambda: 1)
    module = make(folder, num_workers=12)
    assert module.train_dataloader().num_workers == 1
    assert module.num_workers == 12
    assert not recwarn.list


def test_without_val_lightning_leaves_validation_out(folder):
    import shutil

    shutil.rmtree(folder / "val")

    class Module(pl.LightningModule):
        validated = False

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0].float().mean().view(1, 1)).sum() * 0

        def validation_step(self, batch, batch_idx):
            self.validated = True

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    module, data = Module(), make(folder)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, enable_model_summary=False, **options)
    trainer.fit(module, datamodule=data)
    assert data.val_dataloader() == []
    assert trainer.global_step == 2
    assert not module.validated


class CustomJiTDataModule(JiTDataModule):
    def _get_train_transforms(self):
        return transforms.Compose(
            [
                transforms.Lambda(lambda img: center_crop_arr(img, self.img_size)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.1, 0.1, 0.1),
                transforms.PILToTensor(),
            ]
        )


class JiTDataModuleWithVal(JiTDataModule):
    def setup(self, stage=None):
        super().setup(stage)
        if stage == "fit" or stage == "validate":
            val_path = os.path.join(self.data_path, "val")  # noqa: PTH118
            transform_val = transforms.Compose(
                [transforms.Lambda(lambda img: center_crop_arr(img, self.img_size)), transforms.PILToTensor()]
            )
            self.dataset_val = datasets.ImageFolder(val_path, transform=transform_val)

    def val_dataloader(self):
        return DataLoader(self.dataset_val, batch_size=self.batch_size, num_workers=self.num_workers, shuffle=False)


def test_documented_subclasses_work_with_workers(folder):
    batches = []
    for workers in (0, 2):
        module = CustomJiTDataModule(str(folder), 8, 4, workers, seed=0)
        module.setup("fit")
        batches.append([b.images for b in module.train_dataloader()])
    for alone, shared in zip(*batches, strict=True):
        assert torch.equal(alone, shared)

    module = JiTDataModuleWithVal(str(folder), 8, 4, 2)
    module.setup("fit")
    images, labels = next(iter(module.val_dataloader()))
    assert images.shape == (4, 3, 8, 8)
    assert labels.tolist() == [0, 0, 1, 1]


def test_listed_folder_equals_torchvisions(folder):
    ours, theirs = make(folder), datasets.ImageFolder(folder / "train")
    ours.setup("fit")
    assert ours.dataset_train.samples == theirs.samples
    assert ours.dataset_train.targets == theirs.targets
    assert ours.dataset_train.class_to_idx == theirs.class_to_idx


def test_held_out_part_of_every_class(folder):
    module = make(folder / "train", val_fraction=0.4, random_flip=False)
    module.setup("fit")
    train, val = module.dataset_train, module.dataset_val
    assert (len(train), len(val)) == (6, 4)
    assert val.targets == [0, 0, 1, 1]
    assert not {path for path, _ in train.samples} & {path for path, _ in val.samples}
    assert not [t for t in val.transform.transforms if isinstance(t, transforms.RandomHorizontalFlip)]
    again = make(folder / "train", val_fraction=0.4, seed=99)
    again.setup("validate")
    assert again.dataset_train is None
    assert again.dataset_val.samples == val.samples


def test_an_existing_val_folder_is_used_whatever_val_fraction_is(folder):
    assert make(folder, val_fraction=0.4).get_dataset_info()["num_val_samples"] == 4
    assert make(folder, val_fraction=0.4).get_dataset_info()["num_samples"] == 10


def test_class_balanced_epochs(folder):
    for i in range(20):
        write_image(folder / "train" / "dog" / f"more{i}.png", seed=i)
    module = make(folder, class_balanced=True, batch_size=5)
    labels = torch.cat([batch.labels for batch in module.train_dataloader()])
    assert torch.bincount(labels).tolist() == [15, 15]
    assert torch.bincount(torch.cat([b.labels for b in make(folder, batch_size=5).train_dataloader()])).tolist() == [
        5,
        25,
    ]


def test_class_balanced_needs_labels(folder):
    module = make(folder, class_balanced=True)
    module.dataset_train = [(torch.zeros(1, 2, 2), 0)] * 8
    with pytest.raises(ConfigError, match=r"class_balanced=True .*no `targets`"):
        module.train_dataloader()


def test_fast_decoder_gives_nearly_the_same_batches(folder):
    import shutil

    shutil.rmtree(folder / "train" / "cat")
    for i in range(6):
        path = folder / "train" / "cat" / f"{i}.jpg"
        write_image(path, seed=i, size=(40 + 5 * i, 50))
    exact, fast = (list(make(folder, decoder=d, drop_last=False).train_dataloader()) for d in ("exact", "fast"))
    difference = 0
    for a, b in zip(exact, fast, strict=True):
        assert a.index.tolist() == b.index.tolist()
        assert a.images.shape == b.images.shape
        difference = max(difference, int((a.images.int() - b.images.int()).abs().max()))
    # Mirrored alike too, else they would differ by far more.
    assert difference <= 3


def test_a_torchvision_without_a_decoder_is_named(folder, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "jitflow.apps.images.fast_decoder", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(ConfigError, match="torchvision here has no JPEG decoder"):
        make(folder, decoder="fast").setup("fit")


def test_fast_decoder_and_own_transforms_do_not_go_together(folder):
    with pytest.raises(ConfigError, match=r"CustomJiTDataModule has .*transforms"):
        CustomJiTDataModule(str(folder), 8, 4, 0, decoder="fast").setup("fit")
    with pytest.raises(ConfigError, match="decoder='fast' reads colour only"):
        make(folder, decoder="fast", channels=1)


def test_create_from_args(folder):
    args = argparse.Namespace(
        data_path=str(folder), img_size=8, batch_size=2, num_workers=1, pin_mem=False, world_size=2, rank=1
    )
    module = create_jit_datamodule(args)
    assert (module.data_path, module.img_size, module.batch_size, module.num_workers) == (str(folder), 8, 2, 1)
    assert (module.pin_memory, module.num_replicas, module.rank) == (False, 2, 1)
    del args.batch_size
    with pytest.raises(ConfigError, match="batch_size"):
        create_jit_datamodule(args)


def test_class_folders_without_train(folder, caplog):
    with caplog.at_level("INFO"):
        info = make(folder / "train").get_dataset_info()
    assert info["classes"] == ["cat", "dog"]
    assert "training classes" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_a_damaged_image_is_named_in_one_line(folder, workers, damage):
    bad = folder / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200] if damage == "truncated" else b"this is not a picture")
    loader = make(folder, num_workers=workers, drop_last=False).train_dataloader()
    batches = iter(loader)
    with pytest.raises(DataError) as caught:
        list(batches)
    if workers:
        loader._iterator._shutdown_workers()  # the garbage collector would take 5 s for each
    message = str(caught.value)
    assert message.startswith(f"cannot read the image {bad} (")
    assert "\n" not in message


def test_too_few_images(folder):
    with pytest.raises(DataError, match=r"batch_size 11; lower batch_size to 10"):
        make(folder, batch_size=11).train_dataloader()
    assert len(make(folder, batch_size=11, drop_last=False).train_dataloader()) == 1
