"""Our numbers and those of public packages, on the same features and the same images."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
import torch
from packaging.version import Version

from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.kid import kernel_inception_distance
from jitflow.evaluation.manifold import precision_and_recall
from jitflow.evaluation.resize import resize

# Relative; the packages themselves agree to about 1e-13 where the covariances have full rank.
CLOSE = 1e-6


@pytest.fixture(scope="module")
def features():
    """Features of two sets like those of Inception: not negative, many zeros, of different scales."""
    draws = np.random.default_rng(0)
    scale = draws.uniform(0.1, 1, size=48)
    first = draws.normal(size=(400, 48)) * scale
    second = 1.1 * draws.normal(size=(400, 48)) * scale + 0.05
    return np.maximum(first, 0), np.maximum(second, 0)


# SciPy 1.18 takes away an argument of its square root of a matrix, which both packages give.
@pytest.mark.filterwarnings("ignore:The .disp. argument:DeprecationWarning")
@pytest.mark.skipif(
    Version(version("scipy")) >= Version("1.18"), reason="pytorch-fid and clean-fid do not run with this SciPy"
)
@pytest.mark.parametrize(
    ("package", "name"), [("pytorch_fid.fid_score", "calculate_frechet_distance"), ("cleanfid.fid", "frechet_distance")]
)
def test_frechet_distance(features, package, name):
    theirs = getattr(pytest.importorskip(package), name)
    statistics = [value for rows in features for value in (rows.mean(axis=0), np.cov(rows, rowvar=False))]
    assert frechet_distance(*statistics) == pytest.approx(float(theirs(*statistics)), rel=CLOSE)


def test_frechet_distance_of_torch_fidelity(features):
    theirs = pytest.importorskip("torch_fidelity.metric_fid")
    first, second = (theirs.fid_features_to_statistics(torch.from_numpy(rows)) for rows in features)
    expected = theirs.fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]
    found = frechet_distance(first["mu"], first["sigma"], second["mu"], second["sigma"])
    assert found == pytest.approx(expected, rel=CLOSE)


def test_kernel_distance_of_clean_fid(features):
    theirs = pytest.importorskip("cleanfid.fid").kernel_distance
    expected = theirs(*features, num_subsets=1, max_subset_size=400)
    found = kernel_inception_distance(*map(torch.from_numpy, features), num_subsets=1, subset_size=400)
    assert found.mean == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("k", [3, 5])
def test_manifolds_of_prdc(features, k, capsys):
    theirs = pytest.importorskip("prdc").compute_prdc
    real, generated = features
    expected = theirs(real_features=real, fake_features=generated, nearest_k=k)
    found = precision_and_recall(torch.from_numpy(real), torch.from_numpy(generated), k=k)
    assert found._asdict() == pytest.approx({name: float(expected[name]) for name in found._fields}, rel=CLOSE)
    # Away from the trivial ends, where wrong neighbourhoods would agree too.
    assert all(0.1 < value < 0.999 for value in (found.precision, found.recall, found.coverage))


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("library", "antialias"), [("PIL", True), ("PyTorch", False)])
@pytest.mark.parametrize("size", [(16, 16), (64, 48), (256, 256), (400, 512), (299, 299)])
def test_resizers_of_clean_fid(filter, library, antialias, size):
    build = pytest.importorskip("cleanfid.resize").make_resizer
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = torch.from_numpy(build(library, False, filter, (299, 299))(image)).permute(2, 0, 1)
    found = resize(torch.from_numpy(image).permute(2, 0, 1)[None], (299, 299), filter, antialias=antialias)[0]
    assert found.dtype == torch.float32
    # In grey levels of 255.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
