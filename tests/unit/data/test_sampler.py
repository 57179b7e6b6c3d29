"""Order, shares and skipping of the sampler."""

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from jitflow.data.sampler import FixedOrderSampler, ResumableSampler
from jitflow.errors import ConfigError


def indices(sampler):
    return [index for _, index in sampler]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [12, 13, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_once_over_all_processes(world, num_samples, shuffle):
    for drop_last in (True, False):
        samplers = [
            ResumableSampler(num_samples, num_replicas=world, rank=r, shuffle=shuffle, drop_last=drop_last)
            for r in range(world)
        ]
        shares = [indices(s) for s in samplers]
        assert {len(share) for share in shares} == {len(samplers[0])}
        seen = [index for share in shares for index in share]
        if drop_last:
            assert len(seen) == len(set(seen)) == num_samples // world * world
        else:
            assert set(seen) == set(range(num_samples))
            assert len(seen) - num_samples < world


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = ResumableSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return indices(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0) != list(range(50))


def test_a_step_reads_the_same_samples_however_many_processes_share_it():
    alone = indices(ResumableSampler(48, batch_size=6))
    shares = [indices(ResumableSampler(48, batch_size=2, num_replicas=3, rank=r)) for r in range(3)]
    for step in range(8):
        together = {i for share in shares for i in share[2 * step : 2 * step + 2]}
        assert together == set(alone[6 * step : 6 * step + 6])


def test_keys_hold_the_epoch_and_skip_lasts_one_epoch():
    sampler = ResumableSampler(12, batch_size=4)
    sampler.set_epoch(3)
    whole = list(sampler)
    assert {epoch for epoch, _ in whole} == {3}
    sampler.skip(2)
    assert list(sampler) == whole[8:]
    assert len(sampler) == 12
    sampler.set_epoch(3)
    assert list(sampler) == whole[8:]
    sampler.set_epoch(4)
    assert len(list(sampler)) == 12


def test_fixed_order_ignores_the_epoch():
    sampler = FixedOrderSampler(5)
    sampler.set_epoch(7)
    assert list(sampler) == [(0, i) for i in range(5)]


def test_lightning_takes_it_for_a_distributed_sampler():
    assert isinstance(DataLoader(range(4), sampler=ResumableSampler(4)).sampler, DistributedSampler)


def test_balanced_epochs_give_every_class_its_share():
    # Of 5, 40, 15 and no samples: labels need not be sorted, and class 3 does not occur.
    labels = torch.tensor([0] * 5 + [1] * 40 + [2] * 15 + [4])[torch.randperm(61, generator=torch.manual_seed(0))]
    seen = []
    for epoch in range(3):
        sampler = ResumableSampler(61, balance=labels, seed=2)
        sampler.set_epoch(epoch)
        index = torch.tensor(indices(sampler))
        assert len(index) == 61
        counts = torch.bincount(labels[index], minlength=5)
        assert sorted(counts.tolist()) == [0, 15, 15, 15, 16]
        times = torch.bincount(index, minlength=61)
        for label in (0, 1, 2, 4):
            # As evenly as it can be inside a class, too.
            assert times[labels == label].max() - times[labels == label].min() <= 1
        seen.append(index.tolist())
    # Large classes give other samples in other epochs, and classes are mixed.
    assert len({tuple(sorted(epoch)) for epoch in seen}) == 3
    assert all(len(set(labels[torch.tensor(epoch[:12])].tolist())) > 2 for epoch in seen)


def test_balanced_epochs_are_shared_and_resumed_like_others():
    labels = torch.arange(48) % 5
    alone = indices(ResumableSampler(48, balance=labels))
    shares = [indices(ResumableSampler(48, balance=labels, num_replicas=4, rank=r)) for r in range(4)]
    assert [i for together in zip(*shares, strict=True) for i in together] == alone
    later = ResumableSampler(48, balance=labels, batch_size=6)
    later.skip(3)
    assert indices(later) == alone[18:]
    assert later.is_balanced
    assert not ResumableSampler(48).is_balanced


@pytest.mark.parametrize(
    ("options", "word"), [({"rank": 1}, "rank"), ({"rank": -1}, "rank"), ({"batch_size": 0}, "batch_size")]
)
def test_bad_numbers(options, word):
    with pytest.raises(ConfigError, match=word):
        ResumableSampler(4, **options)
