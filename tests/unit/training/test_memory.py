"""The estimate of a training's memory against hand counts and against real allocations."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jitflow.core.loss import mse_per_sample
from jitflow.core.path import interpolate
from jitflow.run.memory import TrainingMemory, estimate_memory

WIDE = {"net_settings": {"hidden_size": 96, "depth": 4, "num_heads": 3}, "img_size": 16}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, by looking after each which of them are still there."""

    def __init__(self):
        super().__init__()
        self.storages, self.peak = [], 0

    @property
    def now(self):
        alive = {id(s): s.nbytes() for s in (reference() for reference in self.storages) if s is not None}
        return sum(alive.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        made = [t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.storages += [weakref.ref(storage) for storage in made if id(storage) not in given]
        self.storages = [reference for reference in self.storages if reference() is not None]
        self.peak = max(self.peak, self.now)
        return out


def real_peak(module, batch):
    """Most bytes that a real step of the same kind makes."""
    module.train()
    with LiveBytes() as live:
        x1, t, y = torch.zeros(batch, 3, 16, 16), torch.rand(batch), torch.zeros(batch, dtype=torch.int64)
        x_t = interpolate(torch.randn_like(x1), x1, t)
        v_pred, v_t = (module.velocity_of(o, x_t, t) for o in (module.net(x_t, t, y), x1))
        mse_per_sample(v_pred, v_t).mean().backward()
        return live.peak


def test_live_bytes_by_hand():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        assert (live.now, live.peak) == (4000, 4000)
        b = a * 2
        view = b.view(10, 100).add_(1)
        assert live.now == 8000
        del a
        assert live.now == 4000
        c = torch.zeros(500, dtype=torch.uint8)
        del b
        assert (live.now, live.peak) == (4500, 8000)
        del view, c
        assert live.now == 0


def test_state_by_hand(make_module):
    module = make_module(**WIDE)
    numbers = sum(p.numel() for p in module.parameters())
    frozen = module.net.pos_embed.numel()
    memory = estimate_memory(module)
    assert memory.weights == 4 * numbers
    assert memory.gradients == 4 * (numbers - frozen)
    assert memory.optimiser == 8 * (numbers - frozen)
    assert memory.averages == 8 * numbers
    assert memory.state == memory.weights + memory.optimiser + memory.averages
    assert estimate_memory(module, num_averages=0).averages == 0


def test_estimate_equals_what_a_real_step_allocates(make_module):
    module = make_module(**WIDE)
    memory = estimate_memory(module)
    for batch in (16, 48):
        assert memory.peak(batch) - memory.state == pytest.approx(real_peak(module, batch), rel=0.05)
        module.zero_grad()


def test_what_saves_memory(make_module):
    plain = estimate_memory(make_module(**WIDE)).per_image
    # Inputs of four blocks instead of everything inside them, and one block at a time.
    assert estimate_memory(make_module(gradient_checkpointing=True, **WIDE)).per_image < plain / 2
    assert estimate_memory(make_module(**WIDE), precision="bf16-mixed").per_image < 0.9 * plain


def test_the_module_is_left_alone(make_module):
    module = make_module(**WIDE)
    before = {name: p.clone() for name, p in module.named_parameters()}
    random_state = torch.get_rng_state()
    estimate_memory(module)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in module.named_parameters())
    out = module.net(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    assert type(out) is torch.Tensor
    assert bool(out.isfinite().all())


def test_largest_batch_is_the_last_that_fits():
    memory = TrainingMemory(weights=100, optimiser=200, averages=200, gradients=100, fixed=150, per_image=30)
    assert memory.peak(1) == 500 + 180
    assert memory.peak(0) == 500 + 150
    capacity = 1000
    largest = memory.largest_batch(capacity)
    assert largest == 8
    assert memory.peak(largest) <= 0.9 * capacity < memory.peak(largest + 1)
    assert memory.largest_batch(600) == 0
    # Gradients alone are more than a small step's activations.
    assert TrainingMemory(0, 0, 0, gradients=100, fixed=0, per_image=1).peak(10) == 100
