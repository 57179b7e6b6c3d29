"""Distances that can be worked out by hand, and what they say about copies and collapse."""

import pytest
import torch

from jitflow.apps.microdoppler import diversity
from jitflow.apps.microdoppler.diversity import (
    copy_scores,
    diversity_per_user,
    mean_pairwise_distance,
    nearest_distances,
    pixel_vectors,
)
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
    near = nearest_distances(
        torch.tensor([[10]], dtype=torch.uint8), torch.tensor([[250], [20], [90]], dtype=torch.uint8)
    )
    assert near.tolist() == pytest.approx([10])


def test_diversity_is_that_within_each_user(tile):
    users = torch.tensor([0, 1, 0, 1, 0])
    vectors = torch.tensor([[0.0], [100.0], [3.0], [108.0], [6.0]])
    assert diversity_per_user(vectors, users, 2).tolist() == pytest.approx([4, 8])
    with pytest.raises(DataError, match="there are 1 with label 1"):
        diversity_per_user(vectors[:3], users[:3], 2)
    with pytest.raises(ConfigError, match="shape"):
        diversity_per_user(vectors, users[:3], 2)


def test_nearest_distances_against_every_pair(tile):
    a, b = normal(11, 6), normal(13, 6, seed=1) + 3
    expected = torch.cdist(a, b).min(dim=1).values / 6**0.5
    assert torch.allclose(nearest_distances(a, b), expected)
    assert nearest_distances(b, b).max() < 1e-6
    assert torch.allclose(nearest_distances(a.float(), b.float()), expected, rtol=1e-5)


def test_copies_are_told_from_fresh_draws():
    train, held_out = normal(300, 8), normal(200, 8, seed=1)
    fresh = copy_scores(normal(200, 8, seed=2), held_out, train)
    assert fresh.share_copies < 0.05
    assert fresh.median_generated == pytest.approx(fresh.median_held_out, rel=0.1)
    assert 0 < fresh.threshold < fresh.median_held_out
    copies = copy_scores(train[:50], held_out, train)
    assert copies.share_copies == 1
    assert copies.median_generated == pytest.approx(0, abs=1e-6)
    half = copy_scores(torch.cat([train[:50], normal(50, 8, seed=2) + 9]), held_out, train)
    assert half.share_copies == 0.5


def test_the_threshold_is_the_first_percentile_of_held_out_images():
    held_out = torch.arange(101.0)[:, None] + 1
    scores = copy_scores(torch.tensor([[1.5], [2.0], [2.5], [50.0]]), held_out, torch.zeros(1, 1))
    assert scores.threshold == pytest.approx(2)
    assert scores.share_copies == 0.25
    assert scores.median_held_out == pytest.approx(51)
    assert scores.median_generated == pytest.approx(2.25)


def test_pixel_vectors_are_means_of_areas(monkeypatch):
    monkeypatch.setattr(diversity, "CHUNK_IMAGES", 2)
    images = torch.arange(3 * 3 * 4 * 4).reshape(3, 3, 4, 4).to(torch.uint8)
    vectors = pixel_vectors(images, side_px=2)
    assert vectors.dtype == torch.uint8
    assert vectors.shape == (3, 12)
    # Rows 0 1 4 5 of the first area: mean 2.5, rounded to even.
    assert vectors[0, :4].tolist() == [2, 4, 10, 12]
    assert pixel_vectors(torch.tensor([[[[9, 10], [10, 10]]]], dtype=torch.uint8), side_px=1).tolist() == [[10]]
    assert vectors[2, 0] == 98
    assert pixel_vectors(images).shape == (3, 3 * 64 * 64)


def test_bad_arguments():
    with pytest.raises(DataError, match="at least 2 images; got 1"):
        mean_pairwise_distance(torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="uint8"):
        pixel_vectors(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ConfigError, match="cannot be compared"):
        nearest_distances(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match="NaN"):
        nearest_distances(torch.full((2, 3), torch.nan), torch.zeros(2, 3))
