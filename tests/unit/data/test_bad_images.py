"""Images that cannot be read: errors, or replaced, counted, named and limited."""

import io
import logging
import traceback

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.apps.images.bad_images import BadImages
from jitflow.apps.images.data import JiTDataModule
from jitflow.data.errors import SampleError
from jitflow.errors import ConfigError, DataError

NUM = 40


def jpeg(i):
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 6 * i, np.uint8)).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Forty grey images of two classes; the value tells which is which."""
    for i in range(NUM):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    return tmp_path


def damage(folder, i):
    path = folder / "train" / "ab"[i % 2] / f"{i:02}.jpg"
    path.write_bytes(path.read_bytes()[:200])
    return str(path)


def batches(folder, epochs=1, **options):
    settings = {"img_size": 16, "batch_size": 8, "num_workers": 0, "seed": 3, "random_flip": False}
    data = JiTDataModule(str(folder), **{**settings, **options})
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        found += [(b.index.tolist(), b.labels.tolist(), b.images[:, 0, 8, 8].tolist()) for b in loader]
    return data, found


def test_by_default_a_bad_image_is_an_error(folder):
    damage(folder, 3)
    with pytest.raises(DataError, match=r"03\.jpg.*bad_images: skip"):
        batches(folder)


@pytest.mark.parametrize("decoder", ["exact", "fast"])
def test_a_skipped_image_is_replaced_counted_and_named(folder, caplog, decoder):
    caplog.set_level(logging.WARNING)
    _, whole = batches(folder, decoder=decoder)
    name = damage(folder, 3)
    data, found = batches(folder, bad_images="skip", max_bad_share=0.05, decoder=decoder)
    # Label and pixels are those of another image, and nothing else has changed.
    assert [index for index, *_ in found] == [index for index, *_ in whole]
    wrong = [
        (place, label, value, expected)
        for (index, labels, values), (_, _, before) in zip(found, whole, strict=True)
        for place, label, value, expected in zip(index, labels, values, before, strict=True)
        if value != expected
    ]
    ((place, label, value, _),) = wrong
    assert data.dataset_train.samples[place][0] == name
    assert round(value / 6) % 2 == label
    assert data.skipped_images() == [name]
    assert caplog.text.count(f"cannot read the image {name}") == 1
    assert "another image takes its place (1 of 2 allowed)" in caplog.text
    caplog.clear()
    data.teardown("fit")
    assert caplog.messages == [f"1 images could not be read: {name}"]


def test_the_replacement_depends_on_the_image_alone(folder):
    for i in (3, 8):
        damage(folder, i)
    skip = {"bad_images": "skip", "max_bad_share": 0.05}
    _, one = batches(folder, epochs=2, **skip)
    for options in ({"num_workers": 2}, {"batch_size": 4}):
        _, other = batches(folder, epochs=2, **skip, **options)
        assert sorted(_flat(one)) == sorted(_flat(other))


def _flat(found):
    return [sample for index, labels, values in found for sample in zip(index, labels, values, strict=True)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_than_the_share_is_hidden(folder, workers):
    for i in range(3):
        damage(folder, i)
    _, found = batches(folder, bad_images="skip", max_bad_share=0.075, num_workers=workers)
    assert len(_flat(found)) == NUM
    with pytest.raises(DataError, match=r"3 of 40 .*max_bad_share=0\.05 allows 2") as e:
        batches(folder, bad_images="skip", max_bad_share=0.05, num_workers=workers)
    # Its frames hold the loader, for whose workers a later collection of garbage would wait ten seconds.
    traceback.clear_frames(e.tb)
    assert "\n" not in str(e.value) and "raise max_bad_share" in str(e.value) and "data check" in str(e.value)


def test_the_same_image_counts_once(folder):
    name = damage(folder, 5)
    data, _ = batches(folder, epochs=4, bad_images="skip", max_bad_share=0.025)
    assert data.skipped_images() == [name]


def test_workers_count_together(folder):
    names = [damage(folder, i) for i in (1, 6)]
    data, _ = batches(folder, bad_images="skip", max_bad_share=0.05, num_workers=2)
    assert sorted(data.skipped_images()) == sorted(names)


def test_a_file_that_vanishes_while_training(folder):
    data = JiTDataModule(str(folder), 16, 8, 0, seed=3, random_flip=False, bad_images="skip", max_bad_share=0.05)
    data.setup("fit")
    batches_left = iter(data.train_dataloader())
    next(batches_left)
    (folder / "train" / "a" / "04.jpg").unlink()
    (folder / "train" / "b" / "05.jpg").unlink()
    rest = [*batches_left, *data.train_dataloader()]
    assert sum(len(batch.images) for batch in rest) == 2 * NUM - 8
    assert [name[-6:] for name in data.skipped_images()] == ["04.jpg", "05.jpg"]


def test_every_image_bad_is_an_error(folder):
    for i in range(NUM):
        damage(folder, i)
    with pytest.raises(DataError, match=r"max_bad_share=0\.5 allows 20"):
        batches(folder, bad_images="skip", max_bad_share=0.5)


def test_a_transform_that_fails_is_not_a_bad_image(folder):
    class Failing(JiTDataModule):
        def _get_train_transforms(self):
            def fail(image):
                raise SampleError("the transform is wrong")

            return fail

    data = Failing(str(folder), 16, 8, 0, bad_images="skip", max_bad_share=0.5)
    data.setup("fit")
    with pytest.raises(DataError, match="the transform is wrong"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize("options", [{"bad_images": "ignore"}, {"max_bad_share": 1.0}, {"max_bad_share": -0.1}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        JiTDataModule("x", **options)


def test_replacements_are_spread(tmp_path):
    drawn = [next(BadImages(1000, 0.1, "training").replacements(i)) for i in range(1000)]
    assert len(set(drawn)) > 550
    assert torch.tensor(drawn).double().mean().sub(500).abs() < 50
