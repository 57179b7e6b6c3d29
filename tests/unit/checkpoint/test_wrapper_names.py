"""Names that DistributedDataParallel, compiling and FSDP put into state dicts, and files of bare weights."""

from __future__ import annotations

import pytest
import torch
from foreign_checkpoints import SETTINGS, weights_of_a_network
from safetensors.torch import save_file

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.text.network import build_jit_model, load_pretrained_jit
from jitflow.checkpoint.convert import resumable
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.load import load_module
from jitflow.checkpoint.names import strip_wrappers
from jitflow.errors import CheckpointError
from jitflow.io.files import load_checkpoint

PREFIXES = ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.module.", "_fsdp_wrapped_module."]


@pytest.fixture(scope="module")
def weights():
    return weights_of_a_network()


def renamed(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


def assert_whole(module, weights):
    for name, value in weights.items():
        assert torch.equal(module.state_dict()[name], value), name
        if name in module.ema_params1:
            assert torch.equal(module.ema_params1[name], value)
            assert torch.equal(module.ema_params2[name], value)
    assert module.ema_params1 and module.ema_params2


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("sections", [("model",), ("model", "model_ema1", "model_ema2"), ("model_ema2",)])
def test_every_section_of_a_release_file_loses_the_prefix_alike(tmp_path, weights, prefix, sections):
    content = {name: dict(weights) for name in ("model", "model_ema1", "model_ema2")}
    content.update({name: renamed(weights, prefix) for name in sections})
    torch.save({**content, "hyper_parameters": SETTINGS}, tmp_path / "a.pth")
    assert_whole(load_module(tmp_path / "a.pth"), weights)


@pytest.mark.parametrize("inside", ["net._orig_mod.", "_orig_mod.net.", "net.blocks"])
def test_a_lightning_file_of_a_compiled_network_loads_and_can_be_resumed(tmp_path, weights, inside):
    if inside == "net.blocks":
        # Compiled block by block.
        names = {name: name.replace(".attn.", "._orig_mod.attn.") for name in weights}
    else:
        names = {name: name.replace("net.", inside, 1) for name in weights}
    odd = {names[name]: value for name, value in weights.items()}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).state_dict()
    content = {
        "state_dict": odd,
        "hyper_parameters": SETTINGS,
        "model_ema1": odd,
        "model_ema2": odd,
        "loops": {"fit_loop": {}},
        "optimizer_states": [optimizer],
        "jitflow": {"application": "images"},
    }
    torch.save(content, tmp_path / "a.ckpt")
    assert_whole(load_module(tmp_path / "a.ckpt"), weights)

    class Own(JiTLightningModule):
        def configure_optimizers(self):
            raise AssertionError("asked for in a training only")

    adapted = load_checkpoint(resumable(tmp_path / "a.ckpt", Own(**SETTINGS), tmp_path / "scratch"))
    assert set(adapted["state_dict"]) == set(adapted["model_ema1"]) == set(weights)


@pytest.mark.parametrize("prefix", ["", "net.", "module.", "_orig_mod.net."])
@pytest.mark.parametrize("where", ["bare", "state_dict", "model_state_dict", "model", ".safetensors"])
def test_bare_weights_load_from_every_format(tmp_path, weights, prefix, where):
    bare = {name.replace("net.", prefix, 1): value for name, value in weights.items()}
    path = tmp_path / ("a.safetensors" if where == ".safetensors" else "a.pth")
    if where == ".safetensors":
        save_file({name: value.clone() for name, value in bare.items()}, path)
    else:
        torch.save(bare if where == "bare" else {where: bare}, path)
    module = load_module(path, img_size=8)
    assert module.num_classes == 5
    assert all(torch.equal(module.state_dict()[name], value) for name, value in weights.items())


def test_bare_weights_of_another_network_are_refused_in_one_line(tmp_path):
    torch.save({"conv.weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="JiT"):
        read_state(tmp_path / "a.pth")


def test_weights_with_and_without_a_prefix_are_refused():
    with pytest.raises(CheckpointError, match="twice"):
        strip_wrappers({"a.weight": 1, "_orig_mod.a.weight": 2})


def test_a_part_of_a_network_that_is_called_module_keeps_its_name():
    assert list(strip_wrappers({"net.module.weight": 1, "net.bias": 2})) == ["net.module.weight", "net.bias"]


@pytest.mark.parametrize("prefix", ["", "net.", "module.", "_orig_mod.module."])
def test_text_networks_take_bare_weights(tmp_path, prefix):
    small = {"depth": 1, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}
    net = build_jit_model("JiT-N/4", 16, **small)
    torch.save({prefix + name: value for name, value in net.state_dict().items()}, tmp_path / "a.pth")
    again = load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16, **small)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())
