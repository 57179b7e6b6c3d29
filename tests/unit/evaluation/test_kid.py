"""Kernel Inception Distance where it is known, and against torch-fidelity."""

import pytest
import torch

from jitflow.errors import ConfigError, DataError
from jitflow.evaluation import kid as module
from jitflow.evaluation.kid import kernel_inception_distance, squared_discrepancy


def normal(num, dim, seed, shift=0.0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_two_and_three_numbers_by_hand():
    # (xy + 1)^3: 1 within the first; 64, 1 and 1 within the second; 1, 1, 1, 27, 343, 1 between them.
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0], [0.0]])
    expected = 1 + (64 + 1 + 1) / 3 - 2 * (1 + 1 + 1 + 27 + 343 + 1) / 6
    assert squared_discrepancy(x, y) == pytest.approx(expected, rel=1e-14)
    assert squared_discrepancy(y, x) == pytest.approx(expected, rel=1e-14)


def test_default_gamma_is_one_over_the_dimension():
    x, y = normal(5, 4, 0), normal(6, 4, 1)
    assert squared_discrepancy(x, y) == squared_discrepancy(x, y, gamma=0.25) != squared_discrepancy(x, y, gamma=1.0)


def test_a_linear_kernel_sees_the_squared_distance_of_the_means():
    a, b = normal(4000, 3, 0), normal(4000, 3, 1, shift=0.5)
    # Unbiased: the scatter of each mean is taken off.
    expected = (a.mean(dim=0) - b.mean(dim=0)).square().sum() - (a.var(dim=0) + b.var(dim=0)).sum() / 4000
    linear = {"degree": 1, "gamma": 1.0, "coef0": 7.0}
    assert squared_discrepancy(a, b, **linear) == pytest.approx(float(expected), rel=1e-10)
    found = kernel_inception_distance(a, b, num_subsets=200, subset_size=200, **linear)
    # A subset of 200 scatters by 2 |difference of the means| (2 / 200)^(1/2), the mean of 200 of them by 0.013.
    assert found.mean == pytest.approx(float(expected), abs=0.05)
    assert found.std == pytest.approx(0.2 * float(expected) ** 0.5, rel=0.2)


def test_sets_of_one_distribution_are_at_zero_on_average():
    # Counting every image as its own neighbour would add some 0.5.
    found = kernel_inception_distance(normal(3000, 4, 0), normal(3000, 4, 1), num_subsets=300, subset_size=50)
    assert abs(found.mean) < 0.1 < found.std


@pytest.mark.parametrize("settings", [{}, {"degree": 2, "gamma": 0.3, "coef0": 0.5}])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_one_full_subset_agrees_with_torch_fidelity(settings, dtype, rel):
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = normal(300, 64, 0).relu().to(dtype), normal(300, 64, 1, shift=0.3).relu().to(dtype)
    theirs = metric_kid.kid_features_to_metric(
        a,
        b,
        kid_subsets=1,
        kid_subset_size=300,
        kid_kernel="poly",
        kid_kernel_poly_degree=settings.get("degree", 3),
        kid_kernel_poly_gamma=settings.get("gamma"),
        kid_kernel_poly_coef0=settings.get("coef0", 1.0),
        rng_seed=2020,
        verbose=False,
    )
    ours = kernel_inception_distance(a, b, num_subsets=1, subset_size=300, **settings)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=rel)
    assert ours.std == theirs["kernel_inception_distance_std"] == 0


def test_many_subsets_agree_with_torch_fidelity_within_the_draw():
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = normal(1000, 16, 0), normal(1000, 16, 1, shift=0.3)
    theirs = metric_kid.kid_features_to_metric(a, b, kid_subsets=100, kid_subset_size=200, rng_seed=0, verbose=False)
    ours = kernel_inception_distance(a, b, subset_size=200)
    # The error of the mean of 100 subsets is a tenth of the spread.
    assert ours.mean == pytest.approx(
        theirs["kernel_inception_distance_mean"], abs=0.5 * theirs["kernel_inception_distance_std"]
    )
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.3)


def test_a_subset_repeats_no_image():
    a, b = normal(40, 3, 0), normal(40, 3, 1)
    found = kernel_inception_distance(a, b, num_subsets=5, subset_size=40)
    assert found.mean == pytest.approx(squared_discrepancy(a, b), rel=1e-10) and found.std < 1e-10


def test_blocks_change_nothing(monkeypatch):
    a, b = normal(41, 3, 0), normal(53, 3, 1)
    whole = squared_discrepancy(a, b)
    for entries in (1, 150):
        monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
        assert squared_discrepancy(a, b) == pytest.approx(whole, rel=1e-12)


def test_the_sum_is_float64_whatever_the_features_are():
    a, b = (1e3 + normal(60, 8, seed) for seed in (0, 1))
    single, double = (squared_discrepancy(a.to(t).double(), b.to(t).double()) for t in (torch.float32, torch.float64))
    assert squared_discrepancy(a.float(), b.float()) == single
    assert single == pytest.approx(double, rel=1e-2)


def test_the_seed_names_the_subsets_and_no_other_generator_moves():
    a, b = normal(100, 3, 0), normal(100, 3, 1)
    state = torch.get_rng_state()
    first, again, other = (
        kernel_inception_distance(a, b, num_subsets=3, subset_size=20, seed=seed) for seed in (4, 4, 5)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again != other


def test_bad_input():
    a = torch.zeros(30, 4)
    with pytest.raises(ConfigError, match=r"subset_size 1000.*\(20 .*subset_size=20"):
        kernel_inception_distance(a, a[:20])
    with pytest.raises(ConfigError, match="at least 2"):
        kernel_inception_distance(a, a, subset_size=1)
    with pytest.raises(ConfigError, match="num_subsets"):
        kernel_inception_distance(a, a, subset_size=10, num_subsets=0)
    with pytest.raises(ConfigError, match="4 and 3 dimensions"):
        kernel_inception_distance(a, a[:, :3], subset_size=10)
    for wrong in (a[0], a[:0]):
        with pytest.raises(ConfigError, match=r"\(N, D\)"):
            kernel_inception_distance(a, wrong, subset_size=10)
    with pytest.raises(DataError, match="1 of 30"):
        kernel_inception_distance(a, a.index_fill(0, torch.tensor([2]), torch.inf), subset_size=10)
