"""LPIPS equals torchmetrics' with the same random VGG-16."""

import pytest
import torch
from torchmetrics.functional.image import lpips as reference_module
from torchvision.models import vgg16

from jitflow.encoders.lpips import Lpips
from jitflow.errors import CheckpointError, MissingFileError


@pytest.fixture(scope="module")
def vgg_path(tmp_path_factory):
    """Convolutions of VGG-16 with random weights; the classifier, 90 % of the file, is not read."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.device("meta"):
            net = vgg16(weights=None).features
        net = net.to_empty(device="cpu")
        for p in net.parameters():
            torch.nn.init.normal_(p, std=(2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.01)
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save({f"features.{name}": value for name, value in net.state_dict().items()}, path)
    return path


def test_equals_the_reference(vgg_path):
    g = torch.Generator().manual_seed(1)
    one, other = (torch.rand(2, 3, 32, 32, generator=g) * 2 - 1 for _ in range(2))
    ours = Lpips(vgg_path)
    with torch.random.fork_rng():
        reference = reference_module._LPIPS(net="vgg", pnet_rand=True)
    weights = torch.load(vgg_path)
    slices = [reference.net.get_submodule(f"slice{k}") for k in range(1, 6)]
    for part in slices:
        part.load_state_dict({name: weights[f"features.{name}"] for name in part.state_dict()})
    expected = reference(one, other).flatten()
    torch.testing.assert_close(ours(one, other), expected, rtol=1e-4, atol=1e-6)
    assert expected.min() > 0.01 and torch.equal(ours(one, one), torch.zeros(2))
    assert ours(one[:, :1], other[:, :1]).shape == (2,)


def test_another_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="VGG-16"):
        Lpips(tmp_path / "none.pth")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="vgg16-397923af"):
        Lpips(tmp_path / "other.pth")
