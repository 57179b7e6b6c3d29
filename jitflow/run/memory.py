"""How much memory a training takes, and the largest batch that fits, known before anything is allocated."""

from __future__ import annotations

import copy
import logging
import os
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jitflow.core.loss import mse_per_sample
from jitflow.core.path import interpolate
from jitflow.errors import ConfigError
from jitflow.io.units import format_bytes
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
# Batches large enough that activations, not gradients, make the peak.
_PROBES = (16, 32)
# What a device's allocator loses between blocks, and what its libraries take for themselves.
_USABLE = 0.9
_GIB = 2**30


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step holds at once.

    Attributes:
        weights: Parameters and buffers.
        optimiser: Both moments of AdamW.
        averages: Both averages of the weights, float32.
        gradients: Gradients of all trainable parameters.
        fixed: What a step needs besides, whatever the batch: gradients at the peak, half-precision copies of weights.
        per_image: What one more image adds: activations kept for the backward pass and what it works on.
    """

    weights: int
    optimiser: int
    averages: int
    gradients: int
    fixed: int
    per_image: int

    @property
    def state(self) -> int:
        """Bytes that stay between steps."""
        return self.weights + self.optimiser + self.averages

    def peak(self, batch: int) -> int:
        """Bytes at the peak of a step of so many images."""
        return self.state + max(self.gradients, self.fixed + self.per_image * batch)

    def largest_batch(self, capacity: int) -> int:
        """Images of the largest step that fits into a device of so many bytes, a tenth of it left free; 0 for none."""
        room = int(_USABLE * capacity) - self.state
        if room < self.gradients:
            return 0
        return max(0, (room - self.fixed) // max(1, self.per_image))


def estimate_memory(module: FlowModule, *, precision: str = "32-true", num_averages: int = 2) -> TrainingMemory:
    """Estimate the memory of a training step without running it.

    The network's forward and backward pass is followed with tensors that have shapes and no contents, and every
    allocation is counted. Fused attention is assumed, and blocks that are not compiled (compiled ones take less).

    Args:
        module: The module; nothing of it is changed.
        precision: Lightning's name; with ``bf16-mixed`` or ``16-mixed`` matrix products run in half precision.
        num_averages: Averages of the weights that are kept beside them.

    Returns:
        The parts of the estimate.
    """
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    peaks = [_peak_of_step(module, batch, mixed="mixed" in precision) for batch in _PROBES]
    per_image = (peaks[1] - peaks[0]) // (_PROBES[1] - _PROBES[0])
    return TrainingMemory(
        weights=sum(p.nbytes for p in [*parameters, *module.buffers()]),
        optimiser=2 * sum(p.nbytes for p in trained),
        averages=num_averages * 4 * sum(p.numel() for p in parameters),
        gradients=sum(p.nbytes for p in trained),
        fixed=max(0, peaks[0] - per_image * _PROBES[0]),
        per_image=per_image,
    )


def describe_fit(module: FlowModule, batch: int | None, device: torch.device, *, precision: str = "32-true") -> str:
    """Say in a line what a training step will take and which batch would still fit.

    Args:
        module: The module.
        batch: Images of one step on one device, if known.
        device: Where it will train.
        precision: Lightning's name.
    """
    memory = estimate_memory(module, precision=precision)
    words = f"memory: about {memory.state / _GIB:.2f} GiB of state"
    if batch is not None:
        words += f", {memory.peak(batch) / _GIB:.2f} GiB at the peak of a step of {batch}"
    capacity = device_memory(device)
    if capacity is None:
        return words
    largest = memory.largest_batch(capacity)
    fits = f"a batch of up to {largest}" if largest else "not even one image"
    return f"{words}; {capacity / _GIB:.1f} GiB of {device.type} memory fit {fits}"


def check_state_fits(
    module: FlowModule, *, accelerator: Any = "auto", optimizer_on_cpu: bool = False, ema_on_cpu: bool = False
) -> None:
    """Say how much memory a training keeps between its steps, before any of it is taken.

    Args:
        module: The module; its tensors may be without contents (``meta``).
        accelerator: As Lightning's Trainer takes it.
        optimizer_on_cpu: Whether the optimiser's moments lie in the host's memory.
        ema_on_cpu: Whether the averages do.

    Raises:
        ConfigError: If the device that trains has less.
    """
    parameters = sum(p.numel() for p in module.parameters())
    # Weights and gradients, two moments of AdamW, two averages, float32 each.
    copies = 2 + (0 if optimizer_on_cpu else 2) + (0 if ema_on_cpu else 2)
    needed = 4 * copies * parameters
    name = getattr(module, "model_name", type(module).__name__)
    log.info(
        "%s: %.1fM parameters, %s for weights, gradients, optimiser and averages, besides activations",
        name,
        parameters / 1e6,
        format_bytes(needed),
    )
    available = _total_memory(accelerator)
    if available is not None and needed > available:
        raise ConfigError(
            f"{name} needs at least {format_bytes(needed)} and this machine has {format_bytes(available)}; choose a "
            "smaller one (`jitflow models`), or keep averages and optimiser in the host's memory (--ema_on_cpu, "
            "--optimizer_on_cpu)"
        )


def _total_memory(accelerator: Any) -> int | None:
    """Bytes of the device that trains, in use or not; None where the system does not say."""
    if torch.cuda.is_available() and accelerator != "cpu":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def device_memory(device: torch.device) -> int | None:
    """Bytes of an accelerator, or bytes free on a CPU; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _peak_of_step(module: FlowModule, batch: int, *, mixed: bool) -> int:
    """Most bytes that exist at once in a forward and backward pass, besides the weights."""
    # Tables that the network computed before are copied with their contents.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    net = _hollow_copy(module.net, fake).train()
    with fake:
        x1 = torch.empty(batch, *module.codec.shape)
        t, labels = torch.empty(batch), torch.empty(batch, dtype=torch.int64)
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


def _hollow_copy(net: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Copy a network with parameters and buffers that have no contents."""
    memo: dict[int, Any] = {}
    with fake:
        for p in net.parameters():
            hollow = torch.empty(p.shape, dtype=p.dtype, device="cpu")
            memo[id(p)] = nn.Parameter(hollow, requires_grad=p.requires_grad)
        for b in net.buffers():
            memo[id(b)] = torch.empty(b.shape, dtype=b.dtype, device="cpu")
    return copy.deepcopy(net, memo)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that still exist."""

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
