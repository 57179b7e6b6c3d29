"""The batch as the documented pair, and seeding per sample."""

import random

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.utilities.data import extract_batch_size
from torch.utils.data import DataLoader

from jitflow.data.batch import ImageBatch, collate
from jitflow.data.digits import TensorImages
from jitflow.data.sampler import ResumableSampler
from jitflow.data.seeded import SeededDataset
from jitflow.errors import DataError


def make_batch():
    return ImageBatch(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3), torch.tensor([5, 6, 7]), 4)


class Noisy:
    """Draws from all three generators that a transform may use."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        draws = [torch.rand(()).item(), random.random(), np.random.rand()]
        return torch.tensor([*draws, index]), index


def test_behaves_as_a_pair():
    batch = make_batch()
    images, labels = batch
    assert images is batch.images is batch[0]
    assert labels is batch.labels is batch[1] is batch[-1]
    assert len(batch) == 2
    with pytest.raises(IndexError):
        batch[2]


def test_lightning_moves_it_whole_and_counts_its_images():
    moved = move_data_to_device(make_batch(), "meta")
    assert isinstance(moved, ImageBatch)
    assert moved.epoch == 4
    assert {t.device.type for t in (moved.images, moved.labels)} == {"meta"}
    assert moved.index.device.type == "cpu"  # read to seed the draws; reading it from a device would wait
    assert extract_batch_size(make_batch()) == 3


def test_draws_depend_on_seed_epoch_and_index_only():
    def draws(seed, epoch, index):
        return tuple(SeededDataset(Noisy(), seed)[(epoch, index)][0][:3].tolist())

    assert draws(1, 2, 3) == draws(1, 2, 3)
    keys = [(s, e, i) for s in range(2) for e in range(2) for i in range(3)]
    for generator in range(3):
        assert len({draws(*key)[generator] for key in keys}) == len(keys)


def test_outer_generators_are_left_alone():
    def outer():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    def reseed():
        torch.manual_seed(0), random.seed(0), np.random.seed(0)

    reseed()
    expected = outer()
    reseed()
    SeededDataset(Noisy(), 0)[(0, 1)]
    assert outer() == expected


def test_batches_do_not_depend_on_the_number_of_workers():
    def batches(workers):
        sampler = ResumableSampler(10, batch_size=3)
        loader = DataLoader(SeededDataset(Noisy(), 0), 3, sampler=sampler, num_workers=workers, collate_fn=collate)
        out = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            out += [(b.epoch, b.images.tolist(), b.labels.tolist(), b.index.tolist()) for b in loader]
        return out

    alone = batches(0)
    assert alone == batches(2)
    assert {epoch for epoch, *_ in alone} == {0, 1}
    assert all(labels == index for _, _, labels, index in alone)


def test_whole_batches_equal_single_samples():
    data = TensorImages(torch.randint(256, (9, 1, 2, 2), dtype=torch.uint8), torch.arange(9) % 3, ["a", "b", "c"])
    seeded = SeededDataset(data, 0)
    keys = [(1, 4), (1, 0), (1, 8)]
    fast, slow = seeded.__getitems__(keys), collate([seeded[key] for key in keys])
    assert torch.equal(fast.images, slow.images)
    assert torch.equal(fast.labels, slow.labels)
    assert fast.index.tolist() == slow.index.tolist() == [4, 0, 8]
    assert fast.epoch == slow.epoch == 1


@pytest.mark.parametrize(("sample", "found"), [((1, 2, 3), "3 parts"), (torch.zeros(2), "Tensor"), ((1,), "1 parts")])
def test_a_sample_that_is_no_pair(sample, found):
    with pytest.raises(DataError, match=f"sample 0 .* {found}"):
        SeededDataset([sample], 0)[(0, 0)]


def test_images_of_two_shapes_and_no_tensor():
    with pytest.raises(DataError, match=r"7 and 9 .*\(1, 2, 2\) and \(1, 2, 3\)"):
        collate([(torch.zeros(1, 2, 2), 0, 7, 0), (torch.zeros(1, 2, 3), 0, 9, 0)])
    with pytest.raises(DataError, match="sample 7 is a str"):
        collate([("x", 0, 7, 0)])
