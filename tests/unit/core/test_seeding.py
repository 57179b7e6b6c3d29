"""A seed names a sample."""

import itertools

import pytest
import torch

from jitflow.core.seeding import current_seeds, mix_seeds, noise_from_seeds, uniform_from_indices, use_seeds
from jitflow.errors import ConfigError

SHAPE = (3, 8, 8)


def test_a_seed_s_noise_does_not_depend_on_its_neighbours():
    seeds = [5, 0, 7, 2**62, 5]
    together = noise_from_seeds(SHAPE, seeds)
    assert together.shape == (5, *SHAPE)
    assert together.dtype == torch.float32
    for place, seed in enumerate(seeds):
        assert torch.equal(together[place], noise_from_seeds(SHAPE, [seed])[0])
    assert torch.equal(together[0], together[4])
    assert not torch.equal(together[0], together[1])


def test_noise_is_unit_normal_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    noise = noise_from_seeds((1000,), range(100))
    assert torch.equal(before, torch.get_rng_state())
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    # Neighbouring seeds are unrelated.
    assert (noise[:-1] * noise[1:]).mean().item() == pytest.approx(0, abs=0.012)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_range(seed):
    with pytest.raises(ConfigError, match=str(seed)):
        noise_from_seeds(SHAPE, [0, seed])


def test_use_seeds_fixes_and_forgets():
    with use_seeds([4, 5]):
        assert current_seeds(2) == [4, 5]
        with use_seeds([6]):
            assert current_seeds(1) == [6]
        assert current_seeds(2) == [4, 5]
    assert current_seeds(2) != [4, 5]


def test_without_fixed_seeds_they_are_fresh_and_follow_the_global_generator():
    torch.manual_seed(0)
    first = current_seeds(50)
    assert len(set(first) | set(current_seeds(50))) == 100
    assert all(0 <= seed < 2**63 for seed in first)
    torch.manual_seed(0)
    assert current_seeds(50) == first


def test_the_global_generator_is_seeded_inside_and_restored_outside():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with use_seeds([1, 2]):
            drawn.append(torch.randn(4))
    assert torch.equal(*drawn)
    with use_seeds([1, 3]):
        assert not torch.equal(drawn[0], torch.randn(4))
    assert torch.equal(before, torch.get_rng_state())


def test_everything_is_restored_after_an_exception():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), use_seeds([7]):
        torch.randn(3)
        raise RuntimeError("inside")
    assert torch.equal(before, torch.get_rng_state())
    assert len(current_seeds(3)) == 3


@pytest.mark.parametrize("num", [1, 3])
def test_one_seed_for_each_sample(num):
    with use_seeds([1, 2]), pytest.raises(ConfigError, match=f"2 seeds were given for {num} samples"):
        current_seeds(num)


def test_mixing_has_no_collisions_among_neighbours():
    inputs = list(itertools.product(range(8), range(8), range(4000)))
    mixed = {mix_seeds(*parts) for parts in inputs}
    assert len(mixed) == len(inputs)
    assert all(0 <= seed < 2**63 for seed in mixed)
    pairs = {mix_seeds(*parts) for parts in itertools.product(range(8), range(4000))}
    assert not mixed & pairs


def test_mixing_minds_order_number_and_sign():
    assert len({mix_seeds(1, 2), mix_seeds(2, 1), mix_seeds(1, 2, 0), mix_seeds(0, 1, 2), mix_seeds(-1, 2)}) == 5
    assert mix_seeds(1, 2) == mix_seeds(1, 2)


def test_uniform_numbers_are_even_and_a_function_of_the_index():
    index = torch.arange(20_000)
    drawn = uniform_from_indices(index, 3, 1)
    assert ((drawn >= 0) & (drawn < 1)).all()
    histogram = torch.histc(drawn.float(), bins=20, min=0, max=1)
    assert (histogram - 1000).abs().max() < 150  # about 5 standard deviations
    order = torch.randperm(20_000)
    assert torch.equal(uniform_from_indices(order, 3, 1), drawn[order])
    other = uniform_from_indices(index, 3, 2)
    assert torch.corrcoef(torch.stack([drawn, other]))[0, 1].abs() < 0.04
    assert torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1].abs() < 0.04
