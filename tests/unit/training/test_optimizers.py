"""Optimisers by name: Muon on the matrices of the blocks with AdamW on the rest, and where their state is kept."""

import copy
import logging
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.convert import convert, resumable
from jitflow.checkpoint.formats import read_state
from jitflow.errors import CheckpointError, ConfigError
from jitflow.run.memory import estimate_memory
from jitflow.training.optimizers import HostOptimizer, MuonWithAdamW, build_optimizer, parameter_groups


def with_gradients(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        if p.requires_grad:
            p.grad = 0.01 * torch.randn(p.shape, generator=generator)
    return module


def orthogonalised(matrix):
    """The Newton-Schulz iteration of Muon by its defining polynomial, in bfloat16 as there, on singular values."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    s = s / matrix.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vt


def test_matrices_of_the_blocks_take_muons_step_and_all_else_adamws(make_module):
    module = with_gradients(make_module(optimizer="muon", learning_rate=0.01, weight_decay=0.1))
    twin = with_gradients(make_module(learning_rate=0.01, weight_decay=0.1))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for m in (module, twin):
        m.configure_optimizers().step()
    after, plain = dict(module.named_parameters()), dict(twin.named_parameters())
    by_muon = [name for name, p in after.items() if name.startswith("net.blocks.") and p.ndim == 2]
    assert {id(p) for p in module.muon_matrices()} == {id(after[name]) for name in by_muon}
    assert all(torch.equal(p, plain[name]) for name, p in after.items() if name not in by_muon)
    for name in by_muon:
        # Nesterov momentum of the first gradient: 0.05 g, looked ahead by 0.95.
        update = orthogonalised(after[name].grad * (1 - 0.95**2)) * 0.2 * max(after[name].shape) ** 0.5
        expected = before[name] * (1 - 0.01 * 0.1) - 0.01 * update
        # Muon multiplies in bfloat16.
        error = (after[name] - expected).norm() / (after[name] - before[name]).norm()
        assert error < 0.05, name


@pytest.mark.parametrize("moves", [(False, False), (False, True), (True, False)])
def test_muons_state_moves_between_the_host_and_the_device(make_module, moves):
    module = make_module(optimizer="muon")

    def build(m, on_cpu):
        m.optimizer_on_cpu = on_cpu
        found = m.configure_optimizers()
        assert isinstance(found, HostOptimizer if on_cpu else MuonWithAdamW)
        return found

    def step(m, optimizer, seed):
        with_gradients(m, seed)
        for group in optimizer.param_groups:
            # As the schedule does.
            group["lr"] = 1e-3 * (1 + seed)
        optimizer.step()

    whole, parted = copy.deepcopy(module), copy.deepcopy(module)
    optimizer = build(whole, False)
    for seed in range(4):
        step(whole, optimizer, seed)
    first = build(parted, moves[0])
    for seed in range(2):
        step(parted, first, seed)
    second = build(parted, moves[1])
    states = [copy.deepcopy(first.state_dict())]
    module.choose_kernels(states)
    second.load_state_dict(states[0])
    for seed in (2, 3):
        step(parted, second, seed)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parted.parameters(), strict=True))


def test_a_file_of_one_optimiser_is_not_resumed_with_the_other(make_module, make_trainer, loader, tmp_path, caplog):
    files = {}
    for name in ("adamw", "muon"):
        trainer = make_trainer(max_steps=1)
        trainer.fit(make_module(optimizer=name), loader)
        files[name] = tmp_path / f"{name}.ckpt"
        trainer.save_checkpoint(files[name])
        assert resumable(files[name], make_module(optimizer=name), tmp_path) == files[name]
    for name, other in (("adamw", "muon"), ("muon", "adamw")):
        with pytest.raises(CheckpointError, match="no optimiser that fits"):
            resumable(files[name], make_module(optimizer=other), tmp_path)
    with caplog.at_level(logging.WARNING):
        convert(files["muon"], tmp_path / "released.pth")
    assert "left out" in caplog.text and read_state(tmp_path / "released.pth").optimizer is None
    convert(files["muon"], tmp_path / "copy.ckpt")
    kept, written = (read_state(file).optimizer for file in (files["muon"], tmp_path / "copy.ckpt"))
    assert kept["state"].keys() == written["state"].keys()
    assert all(
        torch.equal(value, written["state"][place][name])
        for place, moments in kept["state"].items()
        for name, value in moments.items()
    )


def test_a_resumed_training_adopts_the_learning_rate_of_every_group(make_module):
    module = make_module(optimizer="muon", learning_rate=1e-3, weight_decay=0.2)
    state = make_module(optimizer="muon", learning_rate=1e-2, weight_decay=0.1).configure_optimizers().state_dict()
    for group in state["param_groups"]:
        group["peak_lr"] = group["lr"]
    module.adopt_settings([state])
    assert [(group["lr"], group["weight_decay"]) for group in state["param_groups"]] == [
        (1e-3, 0.0),
        (1e-3, 0.2),
        (1e-3, 0.2),
    ]


def test_muon_needs_whole_matrices(make_module, make_trainer, monkeypatch):
    module = make_module(optimizer="muon")
    module.trainer = make_trainer()
    monkeypatch.setattr(pl.Trainer, "strategy", property(lambda trainer: Mock(spec=FSDPStrategy)))
    with pytest.raises(ConfigError, match="whole matrices"):
        module.configure_optimizers()


def test_networks_without_blocks_and_unknown_names_are_refused(make_module):
    module = make_module(optimizer="muon")
    module.net.blocks = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match="blocks"):
        module.configure_optimizers()
    with pytest.raises(ConfigError, match="optimizer"):
        make_module(optimizer="adam")


def test_an_adamw_names_its_parameters_only_where_their_order_is_not_the_releases(make_module):
    state = make_module().configure_optimizers().state_dict()
    assert not any("param_names" in group for group in state["param_groups"])
    groups = parameter_groups(make_module(), 0.1, named=True)
    assert all(len(group["params"]) == len(group["param_names"]) for group in groups)
    assert build_optimizer(groups, learning_rate=1e-3).state_dict()["param_groups"][0]["param_names"]


def test_one_moment_of_muon_is_counted():
    small = {"depth": 1, "in_context_start": 0}
    module = JiTLightningModule("JiT-N/4", 8, optimizer="muon", net_settings=small)
    two = 2 * sum(p.nbytes for p in module.parameters() if p.requires_grad)
    assert two - estimate_memory(module).optimiser == sum(p.nbytes for p in module.muon_matrices())
