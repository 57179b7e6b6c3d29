"""LightningDiT by name: every size builds, and its parameters and costs are the published ones."""

import functools

import pytest
import torch

from jitflow.cli import main
from jitflow.inspect import describe
from jitflow.nets.registry import create_model, get_variant, list_models

# Counting the operations of a large network takes half a second.
describe_model = functools.cache(describe.describe_model)
SIZES = {"S": 32.6, "B": 129.81, "XL": 674.14}


@pytest.mark.parametrize("name", list_models("LightningDiT-*"))
def test_every_size_builds_and_is_described(name):
    facts = describe_model(name)
    patch = int(name[-1])
    assert facts["img_size"] == (16, 16)
    assert facts["tokens"] == (16 // patch) ** 2
    assert f"/{patch}" in name
    assert (
        facts["parameters"] - facts["trainable_parameters"]
        == facts["tokens"] * get_variant(name).settings["hidden_size"]
    )


def test_names_are_whole_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(describe, "describe_model", describe_model)
    assert main(["models", "LightningDiT-*"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in list_models("LightningDiT-*") if f" {name} " not in shown] == []
    assert "256" in shown
    assert "130.56M" in shown


def test_released_sizes_and_costs():
    released = {"B/1", "B/2", "L/2", "XL/1", "XL/2", "1p0B/1", "1p0B/2", "1p6B/1", "1p6B/2"}
    found = {n.removeprefix("LightningDiT-") for n in list_models("LightningDiT-*") if "release" in get_variant(n).note}
    assert found == released
    # Millions of parameters and 1e9 operations (two for a multiply-accumulate) as counted in the reference.
    for name, count in (("B/2", 130.56), ("L/2", 458.15), ("XL/2", 675.26), ("1p0B/1", 1029.40), ("1p6B/1", 1631.77)):
        with torch.device("meta"):
            net = create_model(f"LightningDiT-{name}")
        # The table counts positions at patch 1; patch 2 has fewer.
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(count, abs=0.25)
    for name, gflops in (("B/1", 43.6), ("B/2", 11.0), ("XL/1", 228.8), ("S/1", 10.9)):
        facts, settings = describe_model(f"LightningDiT-{name}"), get_variant(f"LightningDiT-{name}").settings
        # The reference's count leaves out the products of queries, keys and values.
        attention = 2 * facts["tokens"] ** 2 * settings["hidden_size"] * settings["depth"]
        assert 2 * (facts["macs"] - attention) / 1e9 == pytest.approx(gflops, abs=0.06)
    for name, count in SIZES.items():
        with torch.device("meta"):
            net = create_model(f"LightningDiT-{name}/1", num_classes=31)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(count, abs=0.05)
