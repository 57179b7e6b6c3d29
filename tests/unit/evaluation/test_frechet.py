"""Frechet distance against closed forms and other people's code, and its files."""

import math

import numpy as np
import pytest
import torch

from jitflow.errors import ConfigError, MissingFileError
from jitflow.evaluation.frechet import (
    factor_covariance,
    find_statistics,
    frechet_distance,
    load_statistics,
    save_statistics,
)


def features(num, dim, *, seed=0, spread=0.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, dim, generator=generator, dtype=torch.float64)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    return x @ (torch.eye(dim, dtype=torch.float64) + spread * mix) + offset


def stats(x):
    return x.mean(dim=0), torch.cov(x.T)


def test_diagonal_gaussians():
    mu1, mu2 = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 6.0])
    s1, s2 = torch.tensor([1.0, 4.0, 0.25]), torch.tensor([9.0, 4.0, 1.0])
    # |mu|^2 = 4 + 9, and (1 - 3)^2 + (2 - 2)^2 + (0.5 - 1)^2.
    assert frechet_distance(mu1, s1.diag(), mu2, s2.diag()) == pytest.approx(13 + 4 + 0.25, rel=1e-12)


def test_equal_covariances_leave_the_means():
    _, sigma = stats(features(100, 6, spread=1.0))
    mu = torch.arange(6.0, dtype=torch.float64)
    assert frechet_distance(mu, sigma, mu + 2, sigma) == pytest.approx(24, rel=1e-10)
    assert frechet_distance(mu, sigma, mu, sigma) < 1e-10


def test_scaled_covariance():
    # (2 - 1)^2 tr(sigma) for features that are doubled, mean and all.
    mu, sigma = stats(features(100, 6, spread=1.0))
    expected = float(mu @ mu + sigma.trace())
    assert frechet_distance(mu, sigma, 2 * mu, 4 * sigma) == pytest.approx(expected, rel=1e-10)


def test_covariances_of_low_rank():
    # Along the unit vectors u and v: a + b - 2 sqrt(ab) |u . v|.
    u = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    v = torch.tensor([0.6, 0.8, 0, 0], dtype=torch.float64)
    zero = torch.zeros(4)
    found = frechet_distance(zero, 4 * torch.outer(u, u), zero, 9 * torch.outer(v, v))
    assert found == pytest.approx(4 + 9 - 2 * 6 * 0.6, rel=1e-12)
    assert frechet_distance(zero, torch.zeros(4, 4), zero, 9 * torch.outer(v, v)) == pytest.approx(9)
    assert frechet_distance(zero, torch.zeros(4, 4), zero, torch.zeros(4, 4)) == 0


def test_fewer_images_than_dimensions():
    # Both live in the first 3 of 50 dimensions; the rest must add nothing, not even rounding.
    x, y = torch.zeros(2, 20, 50, dtype=torch.float64)
    x[:, :3], y[:, :3] = features(20, 3, spread=1.0), features(20, 3, seed=1, offset=0.5)
    small = frechet_distance(*stats(x[:, :3]), *stats(y[:, :3]))
    turn, _ = torch.linalg.qr(features(50, 50, seed=2))
    assert frechet_distance(*stats(x @ turn), *stats(y @ turn)) == pytest.approx(small, rel=1e-10)


@pytest.mark.parametrize("num", [400, 30], ids=["full rank", "singular"])
def test_agrees_with_scipy(num):
    linalg = pytest.importorskip("scipy.linalg")
    (mu1, s1), (mu2, s2) = (
        stats(features(num, 40, spread=1.0)),
        stats(features(num, 40, seed=1, spread=0.5, offset=0.1)),
    )
    root = linalg.sqrtm((s1 @ s2).numpy())
    expected = float((mu1 - mu2) @ (mu1 - mu2) + s1.trace() + s2.trace()) - 2 * np.trace(root).real
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected, rel=1e-3 if num == 30 else 1e-9)


@pytest.mark.parametrize("num", [400, 30], ids=["full rank", "singular"])
def test_agrees_with_torch_fidelity(num):
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = features(num, 40, spread=1.0).float(), features(num, 40, seed=1, spread=0.5, offset=0.1).float()
    theirs = metric_fid.fid_statistics_to_metric(*map(metric_fid.fid_features_to_statistics, (x, y)), False)
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(*stats(x.double()), *stats(y.double())) == pytest.approx(expected, rel=1e-3)


def test_numpy_and_float32_are_accepted():
    mu, sigma = stats(features(50, 4))
    assert frechet_distance(mu.numpy(), sigma.float().numpy(), mu.float(), sigma) == pytest.approx(0, abs=1e-6)


def test_slightly_negative_eigenvalues_are_clipped_and_clear_ones_refused():
    mu, sigma = torch.zeros(3), torch.diag(torch.tensor([1.0, 0.5, -1e-7]))
    assert frechet_distance(mu, sigma, mu, torch.diag(torch.tensor([1.0, 0.5, 0.0]))) < 1e-6
    with pytest.raises(ConfigError, match=r"second covariance .*\(-0\.1"):
        frechet_distance(mu, sigma, mu, torch.diag(torch.tensor([1.0, 0.5, -0.1])))


def test_factor_has_the_rank_of_its_covariance():
    x = features(10, 30)
    factor = factor_covariance(torch.cov(x.T))
    assert factor.shape == (30, 9)
    torch.testing.assert_close(factor @ factor.T, torch.cov(x.T))


def test_arguments_that_are_no_statistics():
    mu, sigma = torch.zeros(3), torch.eye(3)
    with pytest.raises(ConfigError, match="3 and 4 dimensions"):
        frechet_distance(mu, sigma, torch.zeros(4), torch.eye(4))
    with pytest.raises(ConfigError, match="sigma \\(D, D\\)"):
        frechet_distance(mu, torch.eye(4), mu, sigma)
    with pytest.raises(ConfigError, match="sigma holds NaN or infinity in 1 of 9"):
        frechet_distance(
            mu, torch.eye(3).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)), mu, sigma
        )
    with pytest.raises(ConfigError, match="not symmetric"):
        frechet_distance(mu, torch.ones(3, 3).triu(), mu, sigma)


def test_file_round_trip(tmp_path):
    mu, sigma = stats(features(50, 4))
    path = tmp_path / "new" / "reference.npz"
    save_statistics(path, mu, sigma, extractor="pixels", num_images=50)
    loaded = load_statistics(path)
    assert torch.equal(loaded.mu, mu)
    torch.testing.assert_close(loaded.sigma, sigma, rtol=1e-15, atol=0)
    with np.load(path, allow_pickle=False) as arrays:
        assert str(arrays["extractor"]) == "pixels" and int(arrays["num_images"]) == 50
    assert [p.name for p in path.parent.iterdir()] == ["reference.npz"]


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(ConfigError, match=r"record when .*got list"):
        save_statistics(path, np.zeros(2), np.eye(2), when=[1])
    with pytest.raises(ConfigError, match="shape"):
        save_statistics(path, np.zeros(2), np.eye(3))
    assert not path.exists()


def test_files_of_others(tmp_path):
    # As written by the usual tools: numpy.cov, perhaps in float32, with further keys.
    x = features(50, 4).float().numpy()
    np.savez(tmp_path / "a.npz", mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False).astype(np.float32), n=np.array(50))
    assert load_statistics(tmp_path / "a.npz").sigma.dtype == torch.float64


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "lacks sigma; it holds mu"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"got \(3,\) and \(4, 4\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu holds NaN or infinity in 3 of 3"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "mu must hold real numbers"),
        ({"mu": np.array([Explosive()], dtype=object), "sigma": np.eye(1)}, "cannot be read"),
    ],
    ids=["key", "shape", "nan", "text", "pickle"],
)
def test_unusable_files_are_named(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=rf"bad\.npz.*{message}"):
        load_statistics(path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.npz cannot be read" if content else r"bad\.npz is empty"):
            load_statistics(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ConfigError, match="single array"):
        load_statistics(path)
    with pytest.raises(MissingFileError, match=r"nothing\.npz"):
        load_statistics(tmp_path / "nothing.npz")


def test_statistics_are_found_under_the_release_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=r"jit_in256_stats\.npz .*jitflow stats"):
        find_statistics(256, 1000)
    # The release's files describe ImageNet, so for other data they are no way out.
    with pytest.raises(MissingFileError) as caught:
        find_statistics(16, 10)
    assert str(tmp_path) in str(caught.value) and "release" not in str(caught.value)
    save_statistics("fid_stats/jit_in512_stats.npz", np.zeros(2), np.eye(2))
    assert load_statistics(find_statistics(512, 1000)).mu.shape == (2,)
    assert find_statistics(512, 1000, tmp_path / "fid_stats").is_absolute()
