"""Precision, recall, density and coverage where they are known, and against plain loops."""

import pytest
import torch

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation import manifold as module
from jitflow.evaluation.manifold import memberships, precision_and_recall


def normal(num, dim, seed, shift=0.0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(params=[2048, 37], ids=["one tile", "many tiles"])
def tile(request, monkeypatch):
    monkeypatch.setattr(module, "TILE_ROWS", request.param)


def test_eight_numbers_by_hand():
    # Real balls [-1, 1], [0, 2], [1, 5], [3, 11]; generated ones [4, 6], [5, 7], [6, 10], [8, 32].
    real, generated = (torch.tensor(values).unsqueeze(1) for values in ([0.0, 1.0, 3.0, 7.0], [5.0, 6.0, 8.0, 20.0]))
    assert precision_and_recall(real, generated, k=1) == (0.75, 0.25, 1.0, 0.5)


def loops(real, generated, k):
    """The definitions, one pair at a time."""

    def distance(a, b):
        return float((a.double() - b.double()).norm())

    def radius(i, images):
        return sorted(distance(images[i], image) for j, image in enumerate(images) if j != i)[k - 1]

    r_real = [radius(i, real) for i in range(len(real))]
    r_generated = [radius(i, generated) for i in range(len(generated))]
    inside = [[distance(x, y) <= r for y in generated] for x, r in zip(real, r_real, strict=True)]
    recalled = [any(distance(x, y) <= r for y, r in zip(generated, r_generated, strict=True)) for x in real]
    return (
        sum(any(column) for column in zip(*inside, strict=True)) / len(generated),
        sum(recalled) / len(real),
        sum(map(sum, inside)) / (k * len(generated)),
        sum(map(any, inside)) / len(real),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_plain_loops(tile, k):
    real, generated = normal(80, 5, 0), 0.8 * normal(95, 5, 1, shift=0.6)
    found = precision_and_recall(real, generated, k=k)
    assert found == pytest.approx(loops(real, generated, k), rel=1e-12)
    assert len({round(score, 6) for score in found}) == 4 and 0 < min(found[:2]) < max(found[:2]) < 1


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_identical_sets_cover_each_other(tile, offset):
    # Every ball holds its centre and its k neighbours, the farthest of them on the edge.
    images = normal(150, 24, 0, shift=offset)
    for k in (1, 3):
        found = precision_and_recall(images, images.flip(0), k=k)
        assert found == (1, 1, pytest.approx((k + 1) / k, rel=1e-12), 1)


def test_far_apart_sets_do_not_meet(tile):
    assert precision_and_recall(normal(100, 6, 0), normal(90, 6, 1, shift=50)) == (0, 0, 0, 0)


def test_a_dropped_mode_costs_recall_only(tile):
    kept, dropped = normal(60, 6, 0), normal(90, 6, 1, shift=50)
    found = precision_and_recall(torch.cat([kept, dropped]), kept)
    assert found[:2] == (1, 60 / 150) and found.coverage == 60 / 150
    # And seen from the other side: what is generated besides costs precision only.
    found = precision_and_recall(kept, torch.cat([kept, dropped]))
    assert found[:2] == (60 / 150, 1) and found.coverage == 1


def test_copies_have_a_ball_without_size(tile):
    # Collapsed to two images, of which one is real.
    points = 100 + normal(3, 24, 0)
    real, generated = points[[0, 1]].repeat(20, 1), points[[0, 2]].repeat(30, 1)
    assert precision_and_recall(real, generated)[:2] == (0.5, 0.5)


def test_small_differences_are_not_lost_to_rounding():
    # At this offset float32 products would leave nothing of the distances.
    near, far = normal(80, 8, 0).double(), normal(80, 8, 1, shift=1.0).double()
    found = precision_and_recall(near, far)
    assert 0 < found.precision < 1 and 0 < found.recall < 1
    assert precision_and_recall(near + 1e5, far + 1e5) == found


def test_one_real_outlier_fools_precision_but_not_density():
    outlier = torch.full((1, 4), 1000.0)
    generated = normal(100, 4, 1, shift=400.0)
    found = precision_and_recall(torch.cat([normal(99, 4, 0), outlier]), generated)
    assert found.precision == 1 and found.density == pytest.approx(1 / 3) and found.coverage == 0.01


def test_bad_input():
    images = normal(10, 4, 0)
    for k in (0, 6):
        with pytest.raises(ConfigError, match=rf"number of images \(6\); got {k}"):
            precision_and_recall(images, images[:6], k=k)
    with pytest.raises(ConfigError, match="4 and 3 dimensions"):
        precision_and_recall(images, images[:, :3])
    with pytest.raises(DataError, match="2 of 10"):
        precision_and_recall(images.index_fill(0, torch.tensor([2, 3]), torch.nan), images)


def test_density_and_coverage_have_a_rank_of_their_own():
    real, generated = normal(60, 3, 0), normal(50, 3, 1)
    found = [float(values.double().mean()) for values in memberships(real, generated, k=2, k_density=6)]
    narrow, wide = (precision_and_recall(real, generated, k=k) for k in (2, 6))
    assert found == [*narrow[:2], *wide[2:]]
    assert narrow.coverage < wide.coverage
