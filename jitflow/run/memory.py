"""Estimate the memory of a training step and the largest batch that fits, without allocating anything."""

from __future__ import annotations

import copy
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jitflow.core.condition_table import with_conditions
from jitflow.core.loss import mse_per_sample
from jitflow.core.path import interpolate
from jitflow.layers.fusion import kernels_on
from jitflow.training.averages import averaged_parameters
from jitflow.training.module import FlowModule

# Batch sizes large enough that activations, not gradients, determine the peak.
_PROBES = (16, 32)
# The rest is lost to fragmentation and to the libraries of the device.
_USABLE_SHARE = 0.9


@dataclass(frozen=True)
class TrainingMemory:
    """Estimated memory of a training step on one device, in bytes.

    Attributes:
        weights: Parameters and buffers.
        optimiser: The moments of the optimiser.
        averages: The two averages of the weights, float32.
        gradients: Gradients of all trainable parameters.
        fixed: Memory of a step that does not depend on the batch: gradients at the peak, half-precision weight copies.
        per_image: Memory of each image: activations for the backward pass and temporaries.
    """

    weights: int
    optimiser: int
    averages: int
    gradients: int
    fixed: int
    per_image: int

    @property
    def state(self) -> int:
        """Bytes of memory that persist between steps."""
        return self.weights + self.optimiser + self.averages

    def peak(self, batch: int) -> int:
        """Return the peak memory, in bytes, of a step with ``batch`` images."""
        return self.state + max(self.gradients, self.fixed + self.per_image * batch)

    def largest_batch(self, capacity: int) -> int:
        """Return the largest batch that fits into ``capacity`` bytes with a tenth left free; 0 for none."""
        room = int(_USABLE_SHARE * capacity) - self.state
        if room < self.gradients:
            return 0
        return max(0, (room - self.fixed) // max(1, self.per_image))


def estimate_memory(
    module: FlowModule, *, precision: str = "32-true", num_averages: int = 2, on_cuda: bool = False
) -> TrainingMemory:
    """Estimate the memory of a training step without running it.

    Forward and backward pass are traced with fake tensors, which have no storage, and every allocation is counted.
    Fused attention and uncompiled blocks are assumed (compiled ones take less).

    Args:
        module: The module; it is not changed.
        precision: Lightning's precision; with ``bf16-mixed`` or ``16-mixed`` matrix products run in half precision.
        num_averages: Number of averages of the weights.
        on_cuda: Whether the training uses the kernels for CUDA, which keep less; this machine need not have them.

    Returns:
        The parts of the estimate.
    """
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    with kernels_on("cpu") if on_cuda else nullcontext():
        peaks = [_peak_of_step(module, batch, mixed="mixed" in precision) for batch in _PROBES]
    per_image = (peaks[1] - peaks[0]) // (_PROBES[1] - _PROBES[0])
    return TrainingMemory(
        weights=sum(p.nbytes for p in [*parameters, *module.buffers()]),
        # Muon has one moment, AdamW two.
        optimiser=2 * sum(p.nbytes for p in trained) - sum(p.nbytes for p in module.muon_matrices()),
        averages=num_averages * 4 * sum(p.numel() for p in averaged_parameters(module).values()),
        gradients=sum(p.nbytes for p in trained),
        fixed=max(0, peaks[0] - per_image * _PROBES[0]),
        per_image=per_image,
    )


def _peak_of_step(module: FlowModule, batch: int, *, mixed: bool) -> int:
    """Return the peak memory of a forward and backward pass in bytes, without the weights."""
    # Tables that the network has already computed are copied with their values.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    net = _fake_copy(module.net, fake).train()
    with fake:
        x1 = torch.empty(batch, *module.codec.shape)
        t, labels = torch.empty(batch), with_conditions(torch.empty(batch, dtype=torch.int64), module.conditions)
        dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
        autocast = torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()
        with _LiveBytes() as live:
            with autocast:
                x0 = torch.randn_like(x1)
                x_t = interpolate(x0, x1, t)
                output = net(x_t.to(dtype), t, labels).float()
                v_pred, v_t = (module.velocity_of(o, x_t, t) for o in (output, x1))
                loss = mse_per_sample(v_pred, v_t).mean()
            loss.backward()
            return live.peak


def _fake_copy(net: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Copy a network with fake parameters and buffers, which have no storage."""
    memo: dict[int, Any] = {}
    with fake:
        for p in net.parameters():
            hollow = torch.empty(p.shape, dtype=p.dtype, device="cpu")
            memo[id(p)] = nn.Parameter(hollow, requires_grad=p.requires_grad)
        for b in net.buffers():
            memo[id(b)] = torch.empty(b.shape, dtype=b.dtype, device="cpu")
    return copy.deepcopy(net, memo)


class _LiveBytes(TorchDispatchMode):
    """Dispatch mode that counts the bytes of all live storages created by operations."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in inputs:
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size
