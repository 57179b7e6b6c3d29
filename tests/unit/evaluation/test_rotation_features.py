"""The judge that never saw a label."""

import pytest
import torch

pytest.importorskip("sklearn")

from jitflow.data.digits import DigitsDataModule
from jitflow.evaluation.digits_features import DigitsExtractor
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.frechet import Statistics
from jitflow.evaluation.frechet_samples import FrechetReference, moments_of
from jitflow.evaluation.rotation_features import ROTATION_FILE, RotationExtractor


@pytest.fixture(scope="module")
def extractor(tmp_path_factory, shared_digits_classifier):
    return RotationExtractor(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def scans():
    data = DigitsDataModule(16)
    data.setup()
    return data


def test_tells_turned_digits_from_upright_ones(extractor, scans):
    """The feature that the classifier of digits has too little of, and that it was trained for: the distance grows."""
    moments = moments_of(extractor(scans.dataset_train.images).features)
    reference = FrechetReference(Statistics(moments.mean, moments.covariance))
    held_out = scans.dataset_val.images
    upright, turned, noisy = (
        reference.sample(extractor(images).features).value
        for images in (held_out, held_out.rot90(1, (2, 3)), held_out // 2)
    )
    assert turned > 10 * upright and noisy > 2 * upright


def test_is_another_network_and_has_no_classes(extractor, scans, tmp_path, shared_digits_classifier):
    images = scans.dataset_val.images[:5]
    found = extractor(images)
    assert found.features.shape == (5, extractor.dim) == (5, 64) and found.logits is None
    digits = DigitsExtractor(tmp_path)
    assert extractor.checksum != digits.checksum and extractor.name != digits.name
    assert not torch.allclose(found.features, digits(images).features, rtol=0.1)
    assert "quarter turns" in extractor.preprocessing["feature"]
    again = make_extractor("digits-rotation", cache_dir=tmp_path)
    assert again.checksum == extractor.checksum and (tmp_path / ROTATION_FILE).is_file()
