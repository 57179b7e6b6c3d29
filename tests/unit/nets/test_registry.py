"""Names of networks."""

import pytest
import torch

from jitflow.errors import ConfigError
from jitflow.nets.registry import create_model, get_variant, list_models

RELEASE = ["JiT-B/16", "JiT-B/32", "JiT-L/16", "JiT-L/32", "JiT-H/16", "JiT-H/32"]


@pytest.mark.parametrize("name", list_models("JiT-*"))
def test_every_model_builds_at_its_own_size(name):
    with torch.device("meta"):
        net = create_model(name)
    side = get_variant(name).settings["img_size"]
    assert net.img_size == (side, side)
    assert f"/{net.patch_size}" in name
    assert net.in_context_start == len(net.blocks) // 3


def test_the_release_s_variants_come_first():
    assert list_models()[:6] == RELEASE
    assert {"JiT-B/4", "JiT-N/4"} <= set(list_models())
    assert {name.split("-")[0] for name in list_models()} == {"JiT", "LightningDiT"}


def test_filter():
    assert list_models("jit-b*") == ["JiT-B/16", "JiT-B/32", "JiT-B/4"]
    assert list_models("*nothing*") == []


def test_overrides():
    with torch.device("meta"):
        net = create_model("JiT-N/4", img_size=(8, 24), in_channels=1, num_classes=7, proj_dropout=0.5)
    assert (net.img_size, net.in_channels, net.num_classes) == ((8, 24), 1, 7)
    assert net.y_embedder.embedding_table.weight.shape[0] == 8
    assert net.blocks[1].mlp.dropout.p == 0.5
    assert get_variant("JiT-N/4").settings["img_size"] == 16


@pytest.mark.parametrize(
    ("name", "near"), [("JiT-B16", "JiT-B/16"), ("jit-b/16", "JiT-B/16"), ("Jit-H/23", "JiT-H/32")]
)
def test_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(ConfigError, match=f"'{name}'; did you mean .*{near}.*jitflow models"):
        create_model(name)


def test_nothing_near():
    with pytest.raises(ConfigError, match="known: JiT-B/16, "):
        create_model("resnet")
