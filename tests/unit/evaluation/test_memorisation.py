"""Nearest neighbours that can be worked out by hand, and copies among samples of which is known what they are."""

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation import nearest
from jitflow.evaluation.memorisation import copies_by_held_out, copies_by_ratio, draw_pairs
from jitflow.evaluation.nearest import NearestSearch, Neighbours, nearer_of, nearest_of, pixel_vectors


@pytest.fixture(params=[2, 5, 1024])
def tile(request, monkeypatch):
    monkeypatch.setattr(nearest, "TILE_ROWS", request.param)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_neighbours_against_every_pair_in_any_chunks(tile):
    a, b = normal(11, 6), normal(13, 6, seed=1) + 3
    expected = (torch.cdist(a, b) / 6**0.5).topk(2, largest=False)
    found = nearest_of(a, b)
    assert torch.allclose(found.distances, expected.values)
    assert torch.equal(found.indices, expected.indices)
    search = NearestSearch(a.float())
    for chunk in b.split(4):
        search.update(chunk.float())
    again = search.neighbours()
    assert torch.allclose(again.distances, expected.values, rtol=1e-5) and torch.equal(again.indices, expected.indices)
    # A vector is its own nearest, at a distance of exactly 0 however long the vectors are.
    itself = nearest_of(b + 1e4, b + 1e4)
    assert itself.distances[:, 0].eq(0).all() and itself.indices[:, 0].tolist() == list(range(13))


def test_a_single_training_vector_has_no_second():
    found = nearest_of(torch.tensor([[10]], dtype=torch.uint8), torch.tensor([[250]], dtype=torch.uint8))
    assert found.distances[0].tolist() == pytest.approx([240, float("inf")]) and found.indices[0].tolist() == [0, -1]
    # It says nothing by which a sample would be a copy, unless it is one exactly.
    both = torch.tensor([[10], [250]], dtype=torch.uint8)
    assert copies_by_ratio(nearest_of(both, both[1:])).is_copy.tolist() == [False, True]
    with pytest.raises(DataError, match="training"):
        NearestSearch(torch.zeros(1, 3)).neighbours()
    with pytest.raises(ConfigError, match="cannot be compared"):
        nearest_of(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match="NaN"):
        nearest_of(torch.full((2, 3), torch.nan), torch.zeros(2, 3))


def test_two_views_count_a_training_sample_once():
    one = Neighbours(torch.tensor([[1.0, 4.0], [2.0, 3.0]]), torch.tensor([[7, 8], [1, 2]]))
    other = Neighbours(torch.tensor([[2.0, 3.0], [1.0, 9.0]]), torch.tensor([[7, 9], [5, 6]]))
    joined = nearer_of(one, other)
    # Of the first, 7 is nearest in both views: the second is 9, not 7 again.
    assert joined.distances.tolist() == [[1.0, 3.0], [1.0, 2.0]] and joined.indices.tolist() == [[7, 9], [5, 1]]


def by_held_out(samples, held_out, train):
    return copies_by_held_out(*(nearest_of(vectors, train).distances[:, 0] for vectors in (samples, held_out)))


def test_copies_are_told_from_fresh_draws_by_held_out_data():
    train, held_out = normal(300, 8), normal(200, 8, seed=1)
    fresh = by_held_out(normal(200, 8, seed=2), held_out, train)
    assert fresh.share < 0.05 and fresh.share in fresh.interval
    copies = by_held_out(train[:50], held_out, train)
    assert copies.share == 1 and copies.interval.low > 0.9
    half = by_held_out(torch.cat([train[:50], normal(50, 8, seed=2) + 9]), held_out, train)
    assert half.share == 0.5 and max(half.nearest(50)) < 50
    with pytest.raises(ConfigError, match="held-out"):
        copies_by_held_out(torch.zeros(3), torch.zeros(0))


def test_the_threshold_is_the_first_percentile_of_held_out_data():
    held_out = torch.arange(101.0)[:, None] + 1
    scores = by_held_out(torch.tensor([[1.5], [2.0], [2.5], [50.0]]), held_out, torch.zeros(1, 1))
    assert scores.threshold == pytest.approx(2) and scores.is_copy.tolist() == [True, False, False, False]


@pytest.mark.parametrize("dim", [1, 2])
def test_the_ratio_finds_copies_and_is_met_by_chance_as_often_as_is_said(dim):
    train = torch.rand(3000, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fresh = torch.rand(3000, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Uniform data have no other structure: the nearest is less than a third as far in one of 3^d.
    assert copies_by_ratio(nearest_of(fresh, train)).share == pytest.approx(3.0**-dim, abs=0.03)


def test_the_ratio_finds_noisy_copies_and_exact_ones_of_what_is_there_twice():
    train = normal(200, 20)
    noisy = train[:50] + 0.05 * normal(50, 20, seed=2)
    samples = torch.cat([noisy, normal(50, 20, seed=3)])
    found = copies_by_ratio(nearest_of(samples, train))
    assert found.is_copy.tolist() == [True] * 50 + [False] * 50
    twice = torch.cat([train, train])
    assert copies_by_ratio(nearest_of(train[:50], twice)).share == 1
    assert copies_by_ratio(nearest_of(noisy, twice)).share == 0


def test_pixel_vectors_are_means_of_areas(monkeypatch):
    monkeypatch.setattr(nearest, "CHUNK_IMAGES", 2)
    images = torch.arange(3 * 3 * 4 * 4).reshape(3, 3, 4, 4).to(torch.uint8)
    vectors = pixel_vectors(images, side_px=2)
    assert vectors.dtype == torch.uint8
    assert vectors.shape == (3, 12)
    # Rows 0 1 4 5 of the first area: mean 2.5, rounded to even.
    assert vectors[0, :4].tolist() == [2, 4, 10, 12]
    assert pixel_vectors(torch.tensor([[[[9, 10], [10, 10]]]], dtype=torch.uint8), side_px=1).tolist() == [[10]]
    assert vectors[2, 0] == 98
    assert pixel_vectors(images).shape == (3, 3 * 64 * 64)
    with pytest.raises(ConfigError, match="uint8"):
        pixel_vectors(torch.zeros(1, 3, 4, 4))


def test_pairs_are_drawn_one_above_the_other(tmp_path):
    samples, train = (torch.full((4, 1, 16, 16), level, dtype=torch.uint8) for level in (200, 90))
    draw_pairs(tmp_path / "pairs.png", samples, train, ["0.1", "0.2", "0.3", "0.4"])
    with Image.open(tmp_path / "pairs.png") as image:
        rows = np.asarray(image.convert("L"))[:, 50]
    assert (rows == 200).sum() == (rows == 90).sum() == 96 and np.flatnonzero(rows == 200)[-1] < np.argmax(rows == 90)
