"""Distances that can be worked out by hand, and what they say about copies and collapse."""

import pytest
import torch

from jitflow.apps.microdoppler import diversity
from jitflow.apps.microdoppler.diversity import diversity_per_user, mean_pairwise_distance
from jitflow.errors import ConfigError, DataError


@pytest.fixture(params=[2, 5, 256])
def tile(request, monkeypatch):
    monkeypatch.setattr(diversity, "TILE_ROWS", request.param)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mean_pairwise_distance_of_three_points(tile):
    # Sides 3, 4 and 5, as root mean squares over two components.
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert mean_pairwise_distance(points) == pytest.approx(4 / 2**0.5)
    assert mean_pairwise_distance(points + 1000) == pytest.approx(4 / 2**0.5)


def test_mean_pairwise_distance_of_normal_numbers(tile):
    # Differences have twice the variance, and with many components every distance is near its mean.
    assert mean_pairwise_distance(normal(40, 4000)) == pytest.approx(2**0.5, rel=0.01)


def test_equal_images_have_no_diversity(tile):
    assert mean_pairwise_distance(torch.full((7, 50), 199, dtype=torch.uint8)) == 0
    assert mean_pairwise_distance(normal(1, 30).expand(6, -1)) == pytest.approx(0, abs=1e-6)


def test_unsigned_bytes_are_not_subtracted_as_such():
    assert mean_pairwise_distance(torch.tensor([[0], [255]], dtype=torch.uint8)) == pytest.approx(255)


def test_diversity_is_that_within_each_user(tile):
    users = torch.tensor([0, 1, 0, 1, 0])
    vectors = torch.tensor([[0.0], [100.0], [3.0], [108.0], [6.0]])
    assert diversity_per_user(vectors, users, 2).means.tolist() == pytest.approx([4, 8])
    with pytest.raises(DataError, match="there are 1 with label 1"):
        diversity_per_user(vectors[:3], users[:3], 2)
    with pytest.raises(ConfigError, match="shape"):
        diversity_per_user(vectors, users[:3], 2)


def test_diversity_without_each_group_is_that_of_the_other_images(tile):
    users = torch.arange(40) % 2
    vectors = normal(40, 6)
    found = diversity_per_user(vectors, users, 2)
    # Twenty images of each user: ten groups of two.
    assert found.without_groups.shape == (10, 2)
    for user in (0, 1):
        own = vectors[users == user]
        left = torch.cat([own[:6], own[8:]])
        assert float(found.without_groups[3, user]) == pytest.approx(mean_pairwise_distance(left))
    assert diversity_per_user(vectors[:4], users[:4], 2).without_groups.shape == (0, 2)


def test_bad_arguments():
    with pytest.raises(DataError, match="at least 2 images; got 1"):
        mean_pairwise_distance(torch.zeros(1, 3))
