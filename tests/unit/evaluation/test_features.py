"""Feature extractors; the Inception network with weights that the test makes, since none may be downloaded."""

import hashlib

import pytest
import torch

from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.evaluation import features as module
from jitflow.evaluation.features import INCEPTION_FILE, InceptionExtractor, PixelExtractor, find_inception_weights


def images(num=3, channels=3, side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("channels", "of_image"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_pixels_are_area_means(channels, of_image):
    extractor = PixelExtractor(4, channels)
    given = images(channels=of_image)
    found, logits = extractor.to("cpu")(given)
    assert found.shape == (3, extractor.dim) and found.dtype == torch.float32 and logits is None
    assert extractor.name == f"pixels-{channels}x4x4" and extractor.checksum is None
    first = given[1, :, :4, 4:8].double() / 255
    expected = first.mean() if channels == 1 else first.mean(dim=(1, 2))[0]
    assert found[1, 1] == pytest.approx(float(expected), rel=1e-6)


def test_a_vector_does_not_depend_on_its_batch():
    extractor = PixelExtractor()
    assert torch.equal(extractor(images()).features[1:2], extractor(images()[1:2]).features)


@pytest.mark.parametrize(
    "wrong", [images().float(), images()[0], images(channels=2)], ids=["dtype", "shape", "channels"]
)
def test_images_of_another_form_are_refused(wrong):
    with pytest.raises(ConfigError, match="uint8 of shape"):
        PixelExtractor()(wrong)


def test_bad_pixel_settings():
    for settings in ((0, 1), (8, 2)):
        with pytest.raises(ConfigError):
            PixelExtractor(*settings)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Weights of the right names and shapes, scaled so that the signal survives the depth."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    folder = tmp_path_factory.mktemp("hub") / "checkpoints"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        net = theirs.FeatureExtractorInceptionV3("made", ["2048"])
    for part in net.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, generator=torch.Generator().manual_seed(part.weight.numel()))
    torch.save(net.state_dict(), folder / INCEPTION_FILE)
    return folder / INCEPTION_FILE


@pytest.fixture(scope="module")
def extractor(inception_file):
    with pytest.warns(UserWarning, match="not the Inception"):
        return InceptionExtractor(inception_file)


def test_inception_equals_torch_fidelity(extractor, inception_file):
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    net = theirs.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_file)
    )
    expected_features, expected_logits = net(images())
    found = extractor(images())
    assert found.features.shape == (3, extractor.dim) == (3, 2048) and found.logits.shape == (3, 1008)
    assert float(expected_features.std()) > 1e-3
    torch.testing.assert_close(found.features, expected_features)
    torch.testing.assert_close(found.logits, expected_logits)
    assert extractor.checksum == hashlib.sha256(inception_file.read_bytes()).hexdigest()


def test_inception_with_the_resizing_of_clean_fid(inception_file, extractor):
    build = pytest.importorskip("cleanfid.resize").build_resizer
    with pytest.warns(UserWarning, match="not the Inception"):
        clean = InceptionExtractor(inception_file, clean=True)
    given, seen = images(side=64), []
    first = next(part for name, part in clean.net.named_modules() if name == "Conv2d_1a_3x3")
    first.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    found = clean(given)
    resized = [torch.from_numpy(build("clean")(image.permute(1, 2, 0).numpy())) for image in given]
    torch.testing.assert_close(seen[0], (torch.stack(resized).permute(0, 3, 1, 2) - 128) / 128, rtol=0, atol=1e-6)
    assert found.features.shape == (3, 2048) and clean.name != extractor.name
    # At the network's own size there is nothing to resize, so the two agree; elsewhere they do not.
    own = images(num=1, side=299)
    torch.testing.assert_close(clean(own), extractor(own))
    assert not torch.allclose(found.features, extractor(given).features, rtol=1e-2)


def test_inception_repeats_grey_and_ignores_autocast(extractor):
    grey = images(channels=1)
    expected = extractor(grey.repeat(1, 3, 1, 1)).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extractor(grey).features
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert not found.requires_grad


def test_building_leaves_the_random_state(inception_file):
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="published scores"):
        InceptionExtractor(inception_file)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_found_where_torch_fidelity_keeps_them(inception_file, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(inception_file.parent.parent))
    assert find_inception_weights() == inception_file


def test_the_published_file_is_taken_without_a_warning(inception_file, monkeypatch, recwarn):
    monkeypatch.setattr(module, "INCEPTION_CHECKSUM", hashlib.sha256(inception_file.read_bytes()).hexdigest()[:8])
    InceptionExtractor(inception_file)
    assert not [w for w in recwarn if "Inception" in str(w.message)]


def test_missing_weights_say_where_to_put_them(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingFileError, match=rf"{tmp_path}.*{INCEPTION_FILE} are missing.*https://.*put it there"):
        InceptionExtractor()
    with pytest.raises(MissingFileError, match="elsewhere"):
        InceptionExtractor(tmp_path / "elsewhere.pth")


def test_missing_torch_fidelity_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jitflow\[eval\]'"):
        InceptionExtractor()


class Foreign:
    pass


@pytest.mark.filterwarnings("ignore:.*published scores")
@pytest.mark.parametrize(
    ("content", "message"),
    [({"fc.weight": torch.zeros(2)}, "does not hold the Inception weights"), (Foreign(), "was refused")],
    ids=["other weights", "pickle"],
)
def test_other_files_are_refused(tmp_path, content, message):
    pytest.importorskip("torch_fidelity")
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        InceptionExtractor(tmp_path / "weights.pth")
