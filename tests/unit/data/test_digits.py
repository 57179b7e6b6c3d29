"""The built-in digits."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jitflow.data import digits
from jitflow.data.digits import DigitsDataModule, digits_arrays
from jitflow.errors import ConfigError

pytest.importorskip("sklearn")


def test_split_is_stratified_disjoint_and_complete():
    from sklearn.datasets import load_digits

    (train, train_labels), (val, val_labels) = digits_arrays("train"), digits_arrays("val")
    assert train.shape[1:] == (1, 8, 8)
    assert train.dtype == np.uint8
    assert train.max() == 16
    both = sorted(image.tobytes() for image in np.concatenate([train, val]))
    assert both == sorted(image.astype(np.uint8).tobytes() for image in load_digits().images)
    share = np.bincount(val_labels) / (np.bincount(val_labels) + np.bincount(train_labels))
    np.testing.assert_allclose(share, 0.2, atol=0.005)
    assert len(val_labels) == 359


def test_labels_belong_to_images():
    from sklearn.datasets import load_digits

    scans = load_digits()
    labels = {image.astype(np.uint8).tobytes(): label for image, label in zip(scans.images, scans.target, strict=True)}
    for split in ("train", "val"):
        images, found = digits_arrays(split)
        assert [labels[image.tobytes()] for image in images] == found.tolist()


def test_module_upscales_the_scans_of_the_split_without_flips():
    module = DigitsDataModule(seed=0, drop_last=False)
    info = module.get_dataset_info()
    assert (info["num_samples"], info["num_val_samples"], info["num_classes"]) == (1438, 359, 10)
    scans, labels = digits_arrays("train")
    seen = set()
    for batch in module.train_dataloader():
        images, classes = batch
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (1, 16, 16)
        assert classes.tolist() == labels[batch.index].tolist()
        # The mean over each 2 x 2 block gives the scan back, up to the smoothing; a flip would not.
        blocks = torch.nn.functional.avg_pool2d(images.float(), 2).flatten(1)
        originals = torch.from_numpy(scans[batch.index.numpy()]).float().flatten(1)
        for block, original in zip(blocks, originals, strict=True):
            assert torch.corrcoef(torch.stack([block, original]))[0, 1] > 0.95
        seen |= set(batch.index.tolist())
    assert len(seen) == 1438


def test_split_does_not_depend_on_the_seed_and_the_order_does():
    def first_batch(seed):
        return next(iter(DigitsDataModule(seed=seed).train_dataloader()))

    a, b = DigitsDataModule(seed=0), DigitsDataModule(seed=1)
    a.setup(), b.setup()
    assert torch.equal(a.dataset_val.images, b.dataset_val.images)
    assert first_batch(0).index.tolist() != first_batch(1).index.tolist()


def test_native_size_keeps_the_scan():
    module = DigitsDataModule(img_size=8)
    module.setup()
    scans = torch.from_numpy(digits_arrays("train")[0])
    expected = (scans.float() * (255 / 16)).round().to(torch.uint8)
    assert torch.equal(module.dataset_train.images, expected)


def test_other_sizes():
    module = DigitsDataModule(img_size=(16, 32), batch_size=4)
    assert next(iter(module.val_dataloader())).images.shape == (4, 1, 16, 32)


def test_without_scikit_learn(monkeypatch):
    digits.all_digits.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "sklearn").is_dir()])
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"pip install 'jitflow\[demo\]'"):
        DigitsDataModule().setup("fit")
    digits.all_digits.cache_clear()


def test_bad_arguments():
    with pytest.raises(ConfigError, match="val_fraction"):
        DigitsDataModule(val_fraction=1.0)
    with pytest.raises(ConfigError, match="split"):
        digits_arrays("test")
