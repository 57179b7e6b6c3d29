"""Extractors by name; those of timm with weights that the test makes, since none may be downloaded."""

import hashlib
import socket

import pytest
import safetensors.torch
import torch
from PIL import Image

from jitflow.encoders import timm_network
from jitflow.encoders.timm_network import resize_dinov2_positions
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.evaluation import digits_features, timm_features
from jitflow.evaluation.extractors import KNOWN, KnownNetwork, make_extractor, split_extractors
from jitflow.evaluation.features import PixelExtractor
from jitflow.evaluation.timm_features import TimmExtractor


def images(num=3, channels=3, side=160):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, channels, side, side), dtype=torch.uint8, generator=generator)


# ----------------------------------------------------------------------------------------- by name


def test_pixels_by_name():
    assert isinstance(make_extractor("pixels"), PixelExtractor)
    assert make_extractor("pixels").name == PixelExtractor().name
    assert make_extractor("pixels:4").name == PixelExtractor(4).name


def test_digits_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(digits_features, "DigitsExtractor", lambda cache_dir: ("digits", cache_dir))
    assert make_extractor("digits") == ("digits", None)
    assert make_extractor("digits", cache_dir=tmp_path) == ("digits", tmp_path)


def test_inception_by_name(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(MissingFileError, match=str(tmp_path / "hub")):
        make_extractor("inception")
    with pytest.raises(MissingFileError, match=str(tmp_path / "c:own.pth")):
        make_extractor(f"inception:{tmp_path}/c:own.pth")


@pytest.mark.parametrize(("given", "expected"), [("m:/a/b.pth", ("m", None)), ("m@224:/a/b.pth", ("m", 224))])
def test_timm_by_name(monkeypatch, given, expected):
    monkeypatch.setattr(timm_features, "TimmExtractor", lambda name, path, img_size: (path, name, img_size))
    assert make_extractor(f"timm:{given}") == ("/a/b.pth", *expected)
    assert make_extractor(f"timm:{given}:c") == ("/a/b.pth:c", *expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("incepton:/a/b", r"'incepton'; .*inception or .*timm:MODEL"),
        ("", "known: inception, .*pixels, digits, .*timm"),
        ("pixels:", "ends in a colon"),
        ("pixels:eight", "'eight' is no whole number"),
        ("pixels:0", "side must be at least 1"),
        ("digits:16", "takes no argument"),
        ("timm", "timm:MODEL:PATH"),
        ("timm:resnet18", "timm:MODEL:PATH"),
        ("timm::/a/b", "timm:MODEL:PATH"),
        ("timm:resnet18@:/a/b", "no whole number"),
    ],
)
def test_bad_names(spec, message):
    with pytest.raises(ConfigError, match=message):
        make_extractor(spec)


@pytest.mark.parametrize("name", list(KNOWN))
def test_a_known_network_names_its_file_and_where_it_comes_from(name, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingFileError) as caught:
        make_extractor(name)
    message, known = str(caught.value), KNOWN[name]
    assert f"{tmp_path}/checkpoints/{known.timm_name}.safetensors" in message and "\n" not in message
    assert known.address in message
    # The name is one that timm has, with weights of that tag.
    settings = timm.models.get_pretrained_cfg(known.timm_name)
    assert f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/model.safetensors" == known.address


def test_short_names_of_a_list():
    found = split_extractors("inception:/a/b.pth, dinov2@256,timm:resnet18:/c,pixels:4")
    assert list(found) == ["inception", "dinov2@256", "resnet18", "pixels"]
    assert found["resnet18"] == "timm:resnet18:/c"
    for wrong in ("pixels,pixels:4", "pixels,,digits", ""):
        with pytest.raises(ConfigError, match="--extractors"):
            split_extractors(wrong)


# ----------------------------------------------------------------------------------------- timm


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def make_weights(timm, tmp_path_factory):
    """Write random weights of a model, once."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name, num_classes=None):
        path = folder / f"{name}-{num_classes}.safetensors"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                kwargs = {} if num_classes is None else {"num_classes": num_classes}
                net = timm.create_model(name, pretrained=False, **kwargs)
                # As it starts, much is zero or one, and one image like the other.
                for parameter in net.parameters():
                    torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
            safetensors.torch.save_file(net.state_dict(), path)
        return path

    return make


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("side", [160, 96])
def test_equals_timm_with_its_own_preprocessing(timm, make_weights, name, side):
    path = make_weights(name)
    extractor = TimmExtractor(name, path)
    reference = timm.create_model(name, pretrained=False).eval()
    reference.load_state_dict(safetensors.torch.load_file(path))
    settings = timm.data.resolve_model_data_config(reference)
    transform = timm.data.create_transform(**{**settings, "crop_pct": 1.0})
    given = images(side=side)
    pixels = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in given])
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(pixels), pre_logits=True)
        expected_logits = reference(pixels)
    found = extractor.to("cpu")(given)
    assert found.features.shape == (3, extractor.dim) and found.features.dtype == torch.float32
    for ours, theirs in ((found.features, expected), (found.logits, expected_logits)):
        # Pillow rounds to whole grey levels after resizing.
        allowed = 1e-5 * theirs.norm() if side == 160 else 0.1 * (theirs[0] - theirs[1]).norm()
        assert (ours - theirs).norm() < allowed < (theirs[0] - theirs[1]).norm()
    assert extractor.name == f"{name}@160"
    assert extractor.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def seen(monkeypatch):
    """Networks that timm's Transformers ran in, each with the pixels it was given."""
    transformer = pytest.importorskip("timm").models.VisionTransformer
    forward, found = transformer.forward_features, []
    monkeypatch.setattr(
        transformer, "forward_features", lambda net, pixels: found.append((net, pixels)) or forward(net, pixels)
    )
    return found


def test_resizing_makes_nothing_darker_than_black(make_weights, seen):
    extractor = TimmExtractor("test_vit", make_weights("test_vit"))
    extractor((images(side=40) > 127) * torch.tensor(255, dtype=torch.uint8))
    # Mean and spread of this model are 0.5.
    _, pixels = seen[-1]
    assert pixels.shape[2:] == (160, 160) and pixels.aminmax() == (-1, 1)


@pytest.fixture(scope="module")
def extractor(make_weights):
    return TimmExtractor("test_resnet", make_weights("test_resnet"))


def test_grey_is_repeated_and_autocast_ignored(extractor):
    grey = images(channels=1)
    expected = extractor(grey.repeat(1, 3, 1, 1)).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extractor(grey).features
    assert torch.equal(found, expected) and not found.requires_grad


def test_a_vector_does_not_depend_on_its_batch(extractor):
    alone, together = extractor(images()[1:2]).features, extractor(images()).features[1:2]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_a_classifier_of_other_size_or_none(make_weights, extractor):
    found = TimmExtractor("test_resnet", make_weights("test_resnet", num_classes=7))(images())
    assert found.logits.shape == (3, 7)
    bare = TimmExtractor("test_resnet", make_weights("test_resnet", num_classes=0))
    assert bare(images()).logits is None and bare.dim == extractor.dim


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"model": w}])
def test_files_of_torch(tmp_path, make_weights, extractor, wrap):
    weights = safetensors.torch.load_file(make_weights("test_resnet"))
    torch.save(wrap(weights), tmp_path / "weights.pth")
    found = TimmExtractor("test_resnet", tmp_path / "weights.pth")
    assert torch.equal(found(images()).features, extractor(images()).features)


def test_building_leaves_the_random_state(make_weights):
    state = torch.get_rng_state()
    TimmExtractor("test_resnet", make_weights("test_resnet"))
    assert torch.equal(torch.get_rng_state(), state)


class Foreign:
    pass


def test_other_files_are_refused(tmp_path, make_weights):
    weights = safetensors.torch.load_file(make_weights("test_resnet"))
    name = next(key for key in weights if key.endswith("conv1.weight"))
    contents = {
        "missing": {key: value for key, value in weights.items() if key != name},
        "extra": {**weights, "extra": torch.zeros(1)},
        "shape": {**weights, name: torch.zeros(2)},
        "text": {**weights, name: "text"},
    }
    for label, content in contents.items():
        torch.save(content, tmp_path / f"{label}.pth")
        with pytest.raises(CheckpointError, match=rf"{label}\.pth .*weights of test_resnet \("):
            TimmExtractor("test_resnet", tmp_path / f"{label}.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of test_vit"):
        TimmExtractor("test_vit", make_weights("test_resnet"))
    torch.save(Foreign(), tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="was refused"):
        TimmExtractor("test_resnet", tmp_path / "foreign.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        TimmExtractor("test_resnet", tmp_path / "damaged.safetensors")
    with pytest.raises(MissingFileError, match="nowhere"):
        TimmExtractor("test_resnet", tmp_path / "nowhere.safetensors")


def test_bad_models_and_sizes(make_weights):
    path = make_weights("test_vit")
    with pytest.raises(ConfigError, match=r"'test_vot'; did you mean .*test_vit"):
        TimmExtractor("test_vot", path)
    with pytest.raises(ConfigError, match="unknown timm model 'hf-hub:timm/test_vit"):
        TimmExtractor("hf-hub:timm/test_vit.r160_in1k", path)
    with pytest.raises(ConfigError, match="no weights 'in22k' of test_vit"):
        TimmExtractor("test_vit.in22k", path)
    with pytest.raises(ConfigError, match="img_size must be at least 1"):
        TimmExtractor("test_vit", path, img_size=0)
    with pytest.raises(ConfigError, match=r"test_vit .*\(150, 150\)"):
        TimmExtractor("test_vit", path, img_size=150)
    with pytest.raises(ConfigError, match="uint8 of shape"):
        TimmExtractor("test_vit", path)(torch.zeros(1, 3, 160, 160))


def test_missing_timm_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(timm_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jitflow\[eval\]'"):
        TimmExtractor("test_resnet", tmp_path)


def test_another_size(timm, make_weights):
    """A network with position embeddings sees them resized by timm's rule, one without needs nothing."""
    path = make_weights("test_vit")
    smaller = TimmExtractor("test_vit", path, img_size=96)
    assert smaller.name == "test_vit@96"
    reference = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True).eval()
    reference.load_state_dict(safetensors.torch.load_file(path))
    given = images(side=96)
    with torch.no_grad():
        pixels = (given / 255 - torch.tensor(reference.pretrained_cfg["mean"]).view(3, 1, 1)) / torch.tensor(
            reference.pretrained_cfg["std"]
        ).view(3, 1, 1)
        torch.testing.assert_close(smaller(given).logits, reference(pixels))
    plain = TimmExtractor("test_resnet", make_weights("test_resnet"), img_size=96)
    assert plain.name == "test_resnet@96" and plain(given).features.shape == (3, plain.dim)


# ----------------------------------------------------------------------------------------- DINOv2


def test_positions_are_resized_as_metas_code_does():
    # Made by running interpolate_pos_encoding of facebookresearch/dinov2 on a 5 x 5 grid for an image of 3 x 3
    # patches, with the settings of the published models without registers.
    given = [6, -5, -9, -9, 2, -2, -4, 0, 0, -5, 4, -8, -6, -2, 7, 6, -8, 2, 9, -3, 1, 9, 0, 1, 5, -8, 1, 6, 5, 0]
    given += [8, 5, 1, 5, -1, 9, -4, -9, -1, -6, -4, 2, 7, 4, -8, -4, 4, 2, -6, 8, -1, 3]
    expected = torch.tensor(
        [
            [6.0, -5.0],
            [-4.570517063140869, -4.795998573303223],
            [-5.3634114265441895, 0.7045807242393494],
            [3.5149314403533936, -4.132968902587891],
            [1.4897525310516357, -2.5189297199249268],
            [0.7378029227256775, 5.864114284515381],
            [7.400735855102539, 2.441453456878662],
            [1.3147145509719849, 4.828547477722168],
            [-0.3160199522972107, -4.176800727844238],
            [-4.149001121520996, 2.1470143795013428],
        ]
    )
    found = resize_dinov2_positions(torch.tensor(given, dtype=torch.float32).view(1, 26, 2), 3, 3)
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(("name", "own_rule"), [("dinov2", True), ("reg4_dinov2", False)])
def test_dinov2_at_the_size_of_the_published_scores(make_weights, tmp_path, seen, name, own_rule):
    model = f"vit_small_patch14_{name}"
    weights = safetensors.torch.load_file(make_weights(model, num_classes=0))
    # What Meta's own file has besides.
    torch.save({**weights, "mask_token": torch.zeros(1, 384)}, tmp_path / "meta.pth")
    extractor = TimmExtractor(model, tmp_path / "meta.pth", img_size=224)
    assert extractor.name == f"{model}@224" and extractor.dim == 384
    found, logits = extractor(images(2, side=32))
    assert found.shape == (2, 384) and logits is None
    net, _ = seen[-1]
    positions = net.pos_embed
    assert positions.shape[1] == 16 * 16 + own_rule
    if own_rule:
        torch.testing.assert_close(positions, resize_dinov2_positions(weights["pos_embed"], 16, 16))


def test_a_known_network_is_read_from_the_one_folder(make_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(KNOWN, "mae", KnownNetwork("test_vit", 96))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "test_vit.safetensors").write_bytes(make_weights("test_vit").read_bytes())
    found, direct = make_extractor("mae"), TimmExtractor("test_vit", make_weights("test_vit"), img_size=96)
    assert found.name == direct.name == "test_vit@96"
    assert torch.equal(found(images()).features, direct(images()).features)
    assert (
        make_extractor("mae@128").name == make_extractor(f"mae@128:{make_weights('test_vit')}").name == "test_vit@128"
    )
    assert found.preprocessing["size_px"] == [96, 96] and found.preprocessing["antialias"] is True
    assert "class token" in found.preprocessing["feature"]


def test_the_projection_of_clip_is_no_classifier(timm, tmp_path):
    name = "vit_xsmall_patch16_clip_224"
    with torch.random.fork_rng():
        net = timm.create_model(name, pretrained=False)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "clip.safetensors")
    found = TimmExtractor(name, tmp_path / "clip.safetensors")(images(1))
    assert found.logits is None and found.features.shape == (1, 256)
