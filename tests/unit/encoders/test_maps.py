"""Encoders as maps of features: equal to timm's own functions and a judge's features, with gradients to the image."""

import pytest
import safetensors.torch
import torch
from torch.nn.functional import adaptive_avg_pool2d, gelu, interpolate

from jitflow.data.digits import digits_arrays
from jitflow.encoders import digits
from jitflow.encoders.maps import TimmMaps, resize_maps
from jitflow.encoders.timm_network import parse_timm_spec
from jitflow.errors import ConfigError

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of a tiny Transformer and a tiny convolutional network."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("test_vit", "test_resnet"):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            net = timm.create_model(name, pretrained=False)
        safetensors.torch.save_file(net.state_dict(), folder / f"{name}.safetensors")
    return folder


def images(channels=3, side=160):
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def reference(weights, name):
    net = timm.create_model(name, pretrained=False).eval()
    net.load_state_dict(safetensors.torch.load_file(weights / f"{name}.safetensors"))
    return net, [torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std")]


def test_patches_of_a_transformer_are_those_after_its_last_norm(weights):
    encoder = TimmMaps("test_vit", weights / "test_vit.safetensors")
    net, (mean, std) = reference(weights, "test_vit")
    x = images().requires_grad_(True)
    found = encoder(x)
    # All tokens after the last norm, without the class token, row by row.
    tokens = net.forward_features(((x + 1) / 2 - mean) / std)[:, net.num_prefix_tokens :]
    torch.testing.assert_close(found, tokens.mT.unflatten(2, (10, 10)))
    assert encoder.name == "test_vit@160" and encoder.num_features == found.shape[1] == 64
    assert len(encoder.checksum) == 64
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert gradient.abs().amax(dim=(0, 1)).min() > 0
    assert not any(p.requires_grad for p in encoder.parameters())


def test_stages_of_a_convolutional_network_and_grey_images_of_another_size(weights):
    found = TimmMaps("test_resnet", weights / "test_resnet.safetensors", 32, 2)(images(1, 24))
    net, (mean, std) = reference(weights, "test_resnet")
    larger = interpolate((images(1, 24).expand(-1, 3, -1, -1) + 1) / 2, size=32, mode="bilinear", antialias=True)
    stages = net.forward_intermediates((larger - mean) / std, intermediates_only=True)
    torch.testing.assert_close(found, stages[2])
    with pytest.raises(ConfigError, match="layer 9"):
        TimmMaps("test_resnet", weights / "test_resnet.safetensors", 32, 9)


def test_a_digit_has_the_features_of_the_classifier(shared_digits_classifier):
    weights = digits.train_weights(*digits_arrays("train"))
    encoder, judge = digits.DigitsMaps(weights), digits.DigitsClassifier()
    judge.load_state_dict(weights)
    x = images(1, 16).requires_grad_(True)
    found = encoder(x)
    assert found.shape == (2, encoder.num_features, 4, 4)
    grey = adaptive_avg_pool2d((x + 1) / 2, 8)
    torch.testing.assert_close(gelu(judge.hidden(found.flatten(1))), judge.features(grey))
    assert encoder.checksum == digits.weights_checksum(weights)
    assert torch.autograd.grad(found.sum(), x)[0].abs().min() > 0


def test_maps_are_brought_to_the_grid_of_tokens():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    assert torch.equal(resize_maps(ramp, (4, 8)), ramp.flatten(2).mT)
    # A ramp stays a ramp: each token takes the value in its middle, away from the borders.
    torch.testing.assert_close(resize_maps(ramp, (2, 4)).view(2, 4)[0, 1:3], torch.tensor([2.5, 4.5]))


def test_names_of_timm():
    assert parse_timm_spec("vit@224:/a:b.pth") == ("vit", 224, "/a:b.pth")
    assert parse_timm_spec("vit.tag:c") == ("vit.tag", None, "c")
    for wrong in ("", "vit", "vit@:c", "vit@x:c", ":c"):
        with pytest.raises(ConfigError, match="timm:"):
            parse_timm_spec(wrong)
