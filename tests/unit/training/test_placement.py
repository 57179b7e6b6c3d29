"""Where the optimiser's state and the averages lie, and how devices are brought together."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import AdamW

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.ema import copy_parameters, update_ema_
from jitflow.run.strategy import strategy_for
from jitflow.training.optimizers import HostOptimizer, build_optimizer, parameter_groups


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3))


def take_steps(net: nn.Module, optimizer: AdamW, first: int, last: int) -> None:
    for i in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + i)
        batch = torch.randn(4, 5, generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()


def build(net: nn.Module, on_cpu: bool) -> AdamW:
    return build_optimizer(parameter_groups(net, 0.1), learning_rate=1e-2, on_cpu=on_cpu)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_steps_in_the_hosts_memory_are_adamws():
    nets = [network(), network()]
    plain, host = (build(net, on_cpu) for net, on_cpu in zip(nets, (False, True), strict=True))
    assert isinstance(host, HostOptimizer)
    for net, optimizer in zip(nets, (plain, host), strict=True):
        take_steps(net, optimizer, 0, 5)
    assert same(*nets) and not same(nets[0], network())


@pytest.mark.parametrize("moves", [(False, True), (True, False), (True, True)])
def test_states_move_between_the_host_and_the_device(moves):
    before, after = moves
    net = network()
    whole = build(net, False)
    take_steps(net, whole, 0, 6)
    other = network()
    first = build(other, before)
    take_steps(other, first, 0, 3)
    second = build(other, after)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    if not after:
        # As the module does when it loads a checkpoint: which kernel steps is not the file's to say.
        for group in second.param_groups:
            group["fused"] = True
    assert second.state_dict()["state"].keys() == whole.state_dict()["state"].keys()
    take_steps(other, second, 3, 6)
    assert same(net, other)
    for name, state in whole.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(second.state_dict()["state"][name][key]), torch.as_tensor(value))


def test_parameters_without_a_gradient_stay():
    net = network()
    optimizer = build(net, True)
    net[0].requires_grad_(False)
    before = copy.deepcopy(net)
    take_steps(net, optimizer, 0, 2)
    assert torch.equal(net[0].weight, before[0].weight) and not torch.equal(net[2].weight, before[2].weight)


def test_weights_on_another_device_keep_no_state_there():
    """The meta device stands for an accelerator: what lies there has no contents."""
    trained = nn.Linear(5, 3)
    whole = build(trained, False)
    take_steps(trained, whole, 0, 1)
    for on_cpu, device in ((True, "cpu"), (False, "meta")):
        optimizer = build(nn.Linear(5, 3, device="meta"), on_cpu)
        optimizer.load_state_dict(whole.state_dict())
        moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        assert [m.device.type for m in moments] == [device] * 4
    averages = copy_parameters(dict(nn.Linear(3, 2).named_parameters()), device="cpu")
    assert {a.device.type for a in averages.values()} == {"cpu"}


def test_averages_stay_in_the_hosts_memory():
    module = JiTLightningModule("JiT-N/4", 16, 10)
    module.ema_on_cpu = True
    module.ema_params1 = copy_parameters(dict(module.named_parameters()), device="cpu")
    module.ema_params2 = {}
    checkpoint: dict = {}
    module.save_averages(checkpoint)
    module.to("meta")
    assert {a.device.type for a in module.ema_params1.values()} == {"cpu"}
    module.load_averages(checkpoint)
    assert {a.device.type for a in module.ema_params1.values()} == {"cpu"}


def test_averages_of_parameters_elsewhere_move_where_they_lie():
    weights = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.full((2,), 3.0)}
    averages = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in weights.items()}
    update_ema_(averages, weights, 0.5)
    assert averages["a"].tolist() == [0.5] * 3 and averages["b"].tolist() == [1.5] * 2


@pytest.mark.parametrize(
    ("asked", "several"),
    [
        ({"devices": 1}, False),
        ({"devices": 2}, True),
        ({"devices": "2"}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": "0,1"}, True),
        ({"devices": "1,"}, False),
        ({"devices": [3]}, False),
        ({"devices": 1, "num_nodes": 2}, True),
        ({"devices": "auto", "accelerator": "cpu"}, False),
    ],
)
def test_several_devices_get_a_static_graph(asked, several):
    for word in ("auto", "ddp"):
        chosen = strategy_for(word, **asked)
        assert isinstance(chosen, DDPStrategy) == several
        if several:
            assert chosen._ddp_kwargs == {"static_graph": True, "gradient_as_bucket_view": True}
    assert strategy_for("ddp_find_unused_parameters_true", **asked) == "ddp_find_unused_parameters_true"


def test_accumulation_has_no_static_graph():
    """DDP's static graph fails on batches that send nothing (an assertion inside torch 2.15)."""
    chosen = strategy_for(devices=2, accumulate=4)
    assert isinstance(chosen, DDPStrategy)
    assert chosen._ddp_kwargs == {"static_graph": False, "gradient_as_bucket_view": True}


def test_as_many_devices_as_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert isinstance(strategy_for(devices="auto"), DDPStrategy)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert strategy_for(devices=-1, accelerator="gpu") == "auto"
