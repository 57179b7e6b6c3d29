"""JiT for text as colour: the documented names, the preset, and weights from every form of file."""

import logging

import pytest
import torch

from jitflow.apps.text.network import build_jit_model, load_pretrained_jit
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.nets.registry import create_model

DOCUMENTED = ["JiT-B/4", "JiT-B/16", "JiT-B/32", "JiT-L/16", "JiT-L/32", "JiT-H/16", "JiT-H/32"]
OURS = ["JiT-S/4", "JiT-Ti/4", "JiT-N/4"]
SMALL = {"depth": 2, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 8}


def small(seed=0, **settings):
    """A tiny network whose every weight is shaken."""
    torch.manual_seed(seed)
    net = build_jit_model("JiT-N/4", 16, **SMALL, **settings)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(value, b[name]) for name, value in a.items())


def test_documented_names_are_importable_from_the_root(monkeypatch):
    import models

    assert models.build_jit_model is build_jit_model
    assert models.load_pretrained_jit is load_pretrained_jit


@pytest.mark.parametrize("name", DOCUMENTED + OURS)
def test_sizes_are_those_of_the_image_network(name):
    with torch.device("meta"):
        net, images = build_jit_model(name, 64), create_model(name, img_size=64)
    patch = int(name.split("/")[1])
    assert net.patch_size == patch
    assert net.pos_embed.shape == (1, (64 // patch) ** 2, images.pos_embed.shape[2])
    other = {"y_embedder.embedding_table.weight", "in_context_posemb"}
    shapes, expected = ({key: value.shape for key, value in n.state_dict().items()} for n in (net, images))
    assert list(shapes.items()) == [(key, shape) for key, shape in expected.items() if key not in other]


def test_defaults_are_the_documented_ones():
    with torch.device("meta"):
        net = build_jit_model()
    assert net.img_size == (64, 64)
    assert net.prediction == "data"
    assert not net.self_conditioning
    assert sum(p.numel() for p in net.parameters()) == 129_881_136
    assert all(p.requires_grad for p in net.parameters())


def test_what_the_preset_draws():
    torch.manual_seed(0)
    net = build_jit_model("JiT-Ti/4", 32)
    assert net.y_embedder is None
    assert net.in_context_len == 0
    assert net.use_rope
    for tensor in (
        net.pos_embed,
        net.blocks[0].attn.qkv.weight,
        net.x_embedder.proj1.weight,
        net.final_layer.linear.weight,
        *net.t_embedder.matrices(),
    ):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.1)
        assert tensor.abs().max() > 0.045
    for layer in (*net.blocks, net.final_layer):
        assert not layer.adaLN_modulation[1].weight.any()
    # Every block is the identity, whatever its matrices are.
    image = torch.randn(2, 3, 32, 32)
    before = net(image, torch.rand(2))
    for block in net.blocks:
        torch.nn.init.ones_(block.attn.proj.weight)
    assert torch.equal(net(image, torch.rand(2)), before)


def test_what_is_predicted_is_only_said():
    nets = [small(predict_clean=clean) for clean in (True, False)]
    assert [net.prediction for net in nets] == ["data", "velocity"]
    assert equal(*nets)


def test_settings_win_over_the_preset():
    net = build_jit_model("JiT-N/4", (8, 16), self_conditioning=True, use_rope=False, num_classes=3, proj_dropout=0.5)
    assert (net.img_size, net.self_conditioning, net.use_rope, net.num_classes) == ((8, 16), True, False, 3)
    assert net.blocks[1].mlp.dropout.p == 0.5


@pytest.mark.parametrize(("name", "near"), [("JiT-B4", "JiT-B/4"), ("jit-b/4", "JiT-B/4"), ("LightningDiT-B/1", "JiT")])
def test_unknown_names(name, near):
    with pytest.raises(ConfigError, match=f"unknown model '{name}'; .*{near}.*jitflow models"):
        build_jit_model(name)


def test_unknown_settings_and_sizes():
    with pytest.raises(ConfigError, match=r"JiT-N/4: .*'width'"):
        build_jit_model("JiT-N/4", 16, width=3)
    with pytest.raises(ConfigError, match="not divisible by patch_size 4"):
        build_jit_model("JiT-N/4", 18)


# ------------------------------------------------------------------------------------------- weights


def test_no_path_means_fresh_weights():
    torch.manual_seed(4)
    fresh = load_pretrained_jit("JiT-N/4", None, 16, predict_clean=False)
    torch.manual_seed(4)
    assert equal(fresh, build_jit_model("JiT-N/4", 16))
    assert fresh.prediction == "velocity"


@pytest.mark.parametrize("prefix", ["", "net.", "module.", "module.net.", "_orig_mod."])
@pytest.mark.parametrize("section", ["model_state_dict", "state_dict", "model"])
def test_every_form_of_file(tmp_path, caplog, prefix, section):
    net = small()
    torch.save({section: {prefix + k: v for k, v in net.state_dict().items()}, "epoch": 3}, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO, logger="jitflow"):
        loaded = load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16, **SMALL)
    assert equal(loaded, net)
    assert loaded.training
    assert loaded.prediction == "data"
    assert [record.getMessage() for record in caplog.records] == [f"JiT-N/4 loaded from {tmp_path / 'a.pth'} (weights)"]


def test_the_documented_section_comes_first(tmp_path):
    ours, other = small(), small(seed=1)
    content = {"state_dict": other.state_dict(), "model": other.state_dict(), "model_state_dict": ours.state_dict()}
    torch.save(content, tmp_path / "a.pth")
    assert equal(load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16, **SMALL), ours)


def test_averages(tmp_path, caplog):
    nets = [small(seed=seed) for seed in range(3)]
    states = [{f"net.{k}": v for k, v in net.state_dict().items()} for net in nets]
    content = {"state_dict": states[0], "model_state_dict": states[0], "model_ema1": states[1]}
    torch.save(content, tmp_path / "one.ckpt")
    partial = dict(states[2])
    kept = partial.pop("net.pos_embed")
    torch.save({**content, "model_ema2": partial}, tmp_path / "two.ckpt")
    with caplog.at_level(logging.INFO, logger="jitflow"):
        assert equal(load_pretrained_jit("JiT-N/4", tmp_path / "two.ckpt", 16, ema=1, **SMALL), nets[1])
    assert caplog.messages[-1].endswith("(EMA 1)")
    second = load_pretrained_jit("JiT-N/4", tmp_path / "two.ckpt", 16, ema=2, **SMALL)
    assert torch.equal(second.final_layer.linear.weight, nets[2].final_layer.linear.weight)
    assert torch.equal(second.pos_embed, nets[0].pos_embed)
    assert not torch.equal(second.pos_embed, kept)
    with pytest.raises(CheckpointError, match=r"one.ckpt has no EMA 2; use ema=0"):
        load_pretrained_jit("JiT-N/4", tmp_path / "one.ckpt", 16, ema=2, **SMALL)
    with pytest.raises(ConfigError, match="ema must be 0, 1 or 2; got 3"):
        load_pretrained_jit("JiT-N/4", tmp_path / "one.ckpt", 16, ema=3, **SMALL)


def test_self_conditioning_is_read_from_the_weights(tmp_path):
    net = small(self_conditioning=True)
    torch.save({"model_state_dict": net.state_dict()}, tmp_path / "a.pth")
    assert equal(load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16, **SMALL), net)
    with pytest.raises(CheckpointError, match="not in the network: hint_embedder"):
        load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16, self_conditioning=False, **SMALL)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(MissingFileError, match=r"none.pth does not exist"):
        load_pretrained_jit("JiT-N/4", tmp_path / "none.pth", 16)
    weights = small().state_dict()
    torch.save({"weights": weights, "epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth .*model_state_dict.*weights \("):
        load_pretrained_jit("JiT-N/4", tmp_path / "odd.pth", 16)
    del weights["final_layer.linear.bias"]
    weights["extra"] = torch.zeros(1)
    torch.save({"model_state_dict": weights}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"missing: final_layer.*network: extra"):
        load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16, **SMALL)
    torch.save({"model_state_dict": small().state_dict()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"pos_embed .*16, 32\) for \(1, 64, 32\)"):
        load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 32, **SMALL)
    with pytest.raises(CheckpointError, match=r"missing: blocks\.2"):
        load_pretrained_jit("JiT-N/4", tmp_path / "a.pth", 16)
