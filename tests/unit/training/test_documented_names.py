"""Names and values that the documents' code uses: steps with times of four dimensions, sizes of data, no milestones."""

from __future__ import annotations

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.data.digits import DigitsDataModule
from jitflow.errors import ConfigError

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_len": 2}


@pytest.mark.parametrize("name", ["_euler_step", "_heun_step"])
def test_steps_take_times_of_every_form(name):
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 8, 3, cfg_scale=2.0, net_settings=NET).eval()
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    z, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    step = getattr(module, name)
    expected = step(z, torch.tensor(0.25), torch.tensor(0.5), labels)
    assert not torch.equal(expected, z)
    for shape in ((1,), (3,), (3, 1, 1, 1), (1, 1, 1, 1)):
        assert torch.equal(step(z, torch.full(shape, 0.25), torch.full(shape, 0.5), labels), expected)
    with pytest.raises(ConfigError, match="t_next"):
        step(z, torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1), torch.full((3, 1, 1, 1), 0.5), labels)


def test_data_tell_the_size_of_their_batches():
    assert DigitsDataModule(batch_size=17).get_dataset_info()["batch_size"] == 17
