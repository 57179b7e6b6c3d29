"""The judge of the demo."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from jitflow.data.digits import DigitsDataModule, digits_arrays
from jitflow.encoders.digits import view_at_side
from jitflow.errors import ConfigError
from jitflow.evaluation import digits_features as module
from jitflow.evaluation.digits_features import DIGITS_FILE, DigitsClassifier, DigitsExtractor
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.moments import Moments


def train_only(split, **kwargs):
    assert split == "train", "the held-out digits must stay unseen"
    return digits_arrays(split, **kwargs)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "made"


@pytest.fixture(scope="module")
def extractor(cache_dir, shared_digits_classifier):
    return DigitsExtractor(cache_dir)


def held_out(img_size):
    data = DigitsDataModule(img_size=img_size)
    data.setup()
    return data.dataset_val.images, data.dataset_val.labels


@pytest.mark.parametrize("img_size", [8, 16, 28, (32, 24)])
def test_knows_digits_it_has_not_seen(extractor, img_size):
    images, labels = held_out(img_size)
    features, logits = extractor(images)
    assert features.shape == (len(images), extractor.dim) == (359, 64) and logits.shape == (359, 10)
    assert features.dtype == logits.dtype == torch.float32 and not features.requires_grad
    assert float((logits.argmax(dim=1) == labels).double().mean()) >= 0.97


def test_training_is_the_same_whatever_the_program_does(extractor, shared_digits_classifier, monkeypatch):
    monkeypatch.setattr(module, "train_weights", shared_digits_classifier)
    monkeypatch.setattr(module, "digits_arrays", train_only)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        with torch.random.fork_rng(), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            torch.manual_seed(17)
            state = torch.get_rng_state()
            again = DigitsExtractor()
            assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
    assert again.checksum == extractor.checksum and len(extractor.checksum) == 64


def test_no_second_training(extractor, cache_dir, monkeypatch):
    monkeypatch.setattr(module, "train_weights", lambda *a: pytest.fail("the cache was not used"))
    again = DigitsExtractor(str(cache_dir))
    images, _ = held_out(16)
    assert again.checksum == extractor.checksum
    assert torch.equal(again(images).logits, extractor(images).logits)
    assert [path.name for path in cache_dir.iterdir()] == [DIGITS_FILE]


def other_weights(*_):
    return {name: torch.full_like(value, 0.5, device="cpu") for name, value in DigitsClassifier().state_dict().items()}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", ["bit", "cut", "recipe", "scans", "nothing"])
def test_a_cache_that_does_not_fit_is_made_anew(extractor, cache_dir, tmp_path, monkeypatch, change):
    path = tmp_path / DIGITS_FILE
    path.write_bytes((cache_dir / DIGITS_FILE).read_bytes())
    if change == "bit":
        flip_a_bit(path)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif change == "recipe":
        monkeypatch.setitem(module.RECIPE, "lr", 0.004)
    elif change == "scans":
        monkeypatch.setattr(module, "digits_arrays", lambda split: digits_arrays(split, val_fraction=0.3))
    monkeypatch.setattr(module, "train_weights", other_weights)
    made = DigitsExtractor(tmp_path)
    expected = extractor.checksum if change == "nothing" else module.weights_checksum(other_weights())
    assert made.checksum == expected
    monkeypatch.setattr(module, "train_weights", lambda *a: pytest.fail("the new weights were not kept"))
    assert DigitsExtractor(tmp_path).checksum == made.checksum


def test_images_are_averaged_over_areas(extractor):
    small, _ = held_out(8)
    expected = extractor(small)
    larger = small.repeat_interleave(3, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(extractor(larger).features, expected.features, rtol=1e-4, atol=1e-4)


def test_colours_count_by_their_brightness(extractor):
    grey = held_out(8)[0] // 3
    red = torch.cat([3 * grey, torch.zeros_like(grey), torch.zeros_like(grey)], dim=1)
    torch.testing.assert_close(extractor(red).logits, extractor(grey).logits, rtol=1e-4, atol=1e-4)


def test_training_shows_scans_as_data_modules_bring_them(extractor, monkeypatch):
    data = DigitsDataModule(img_size=16)
    data.setup()
    seen = []
    monkeypatch.setattr(DigitsClassifier, "features", lambda net, pixels: seen.append(pixels) or torch.zeros(1, 64))
    extractor(data.dataset_val.images)
    trained = view_at_side(torch.from_numpy(digits_arrays("val")[0]).float() / 16, 16)
    # The data module rounds to 256 levels.
    torch.testing.assert_close(seen[0], trained, rtol=0, atol=0.5 / 255 + 1e-6)


def test_a_vector_does_not_depend_on_its_batch_or_on_autocast(extractor):
    images, _ = held_out(16)
    together = extractor.to("cpu")(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone = extractor(images[7:8])
    torch.testing.assert_close(alone.features, together.features[7:8], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.logits, together.logits[7:8], rtol=1e-4, atol=1e-4)


def test_distances_tell_what_is_wrong_with_a_set(extractor):
    data = DigitsDataModule()
    data.setup()
    images, labels = data.dataset_train.images, data.dataset_train.labels
    half, other = images[::2], images[1::2]
    noise = torch.from_numpy(np.random.default_rng(0).integers(-80, 81, other.shape))

    def distance(given):
        moments = []
        for part in (half, given):
            made = Moments(extractor.dim)
            made.update(extractor(part).features)
            moments += [made.mean, made.covariance]
        return frechet_distance(*moments)

    floor = distance(other)
    assert distance((other + noise).clamp(0, 255).to(torch.uint8)) > 2 * floor > 0
    assert distance(other[labels[1::2] < 9]) > 1.5 * floor
    assert distance(other.flip(3)) > 10 * floor


def test_images_of_another_form_are_refused(extractor):
    with pytest.raises(ConfigError, match="uint8 of shape"):
        extractor(torch.zeros(2, 1, 8, 8))


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "train_weights", other_weights)
    with pytest.raises(ConfigError, match=r"cannot be written.*cache_dir"):
        DigitsExtractor(tmp_path / "file" / "folder")
