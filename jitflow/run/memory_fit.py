"""Compare the memory that a training needs with the memory of its devices, before it starts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from jitflow.errors import ConfigError
from jitflow.io.units import format_bytes
from jitflow.run.memory import TrainingMemory, estimate_memory
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
_GIB = 2**30


@dataclass(frozen=True)
class MemoryFit:
    """Memory that a training needs on each device of this machine, and the memory that there is.

    Attributes:
        memory: Estimated memory on one device.
        batch: Samples of a step on one device; None if unknown.
        device: Kind of the devices.
        num_devices: Devices of this machine that train; on a CPU these are processes, which share its memory.
        capacity: Memory of all of them, in bytes; None if unknown.
    """

    memory: TrainingMemory
    batch: int | None
    device: str
    num_devices: int
    capacity: int | None

    @property
    def needed(self) -> int:
        """Memory that is needed on each device, in bytes."""
        return self.memory.state if self.batch is None else self.memory.peak(self.batch)

    @property
    def largest_batch(self) -> int | None:
        """Largest batch of a device that fits; 0 for none, None if the capacity is unknown."""
        return None if self.capacity is None else self.memory.largest_batch(self.capacity // self.num_devices)

    @property
    def largest_pass(self) -> int | None:
        """Samples of a forward and backward pass that fit beside the weights alone; 0 for none, None if unknown."""
        if self.capacity is None:
            return None
        return replace(self.memory, optimiser=0, averages=0).largest_batch(self.capacity)

    def describe(self) -> str:
        """Describe in one line the memory of a training step by device and in all, and the largest batch that fits."""
        line = f"memory: about {self.memory.state / _GIB:.2f} GiB of state"
        if self.batch is not None:
            line += f", {self.needed / _GIB:.2f} GiB at the peak of a step of {self.batch}"
        if self.num_devices > 1:
            line += f", on each of {self.num_devices} devices ({self.num_devices * self.needed / _GIB:.2f} GiB in all)"
        if self.capacity is None:
            return line
        fits = f"a batch of up to {self.largest_batch}" if self.largest_batch else "not even one sample"
        return f"{line}; {self.capacity / _GIB:.1f} GiB of {self.device} memory fit {fits}"

    def warning(self) -> str | None:
        """Return a line that says what would fit if the training does not; None if it does."""
        largest = self.largest_batch
        if largest is None or self.capacity is None or largest >= (self.batch or 1):
            return None
        needed = self.num_devices * self.needed / _GIB
        line = f"this training does not fit: it needs {needed:.1f} GiB, and there are {self.capacity / _GIB:.1f}"
        if largest:
            return f"{line}; lower batch_size to {largest} or less, and raise trainer.accumulate_grad_batches instead"
        fewer = "fewer devices, " if self.num_devices > 1 and self.device == "cpu" else ""
        return f"{line}; choose {fewer}model.gradient_checkpointing true or a smaller network (`jitflow models`)"


def fit_memory(
    module: FlowModule,
    batch: int | None,
    device: torch.device,
    *,
    precision: str = "32-true",
    num_devices: int = 1,
    ema_on_cpu: bool = False,
) -> MemoryFit:
    """Estimate the memory of a training step, and find the memory that there is for it.

    Args:
        module: The module, on this machine; where its optimiser is says ``optimizer_on_cpu``.
        batch: Samples of one step on one device, if known.
        device: Device of the training.
        precision: Lightning's precision.
        num_devices: Devices of this machine that train.
        ema_on_cpu: Whether the averages are kept in host memory.
    """
    on_cpu = device.type == "cpu"
    memory = estimate_memory(
        module, precision=precision, on_cuda=device.type == "cuda", num_averages=0 if ema_on_cpu and not on_cpu else 2
    )
    if module.optimizer_on_cpu and not on_cpu:
        memory = replace(memory, optimiser=0)
    one = device_memory(device)
    if one is None:
        capacity = None
    elif on_cpu:
        # The weights are part of the need, and already allocated.
        capacity = one + memory.weights
    else:
        capacity = one * num_devices
    return MemoryFit(memory, batch, device.type, num_devices, capacity)


def check_state_fits(
    module: FlowModule,
    *,
    accelerator: Any = "auto",
    num_devices: int = 1,
    optimizer_on_cpu: bool = False,
    ema_on_cpu: bool = False,
) -> None:
    """Check that the persistent memory of a training fits, before any is allocated.

    Args:
        module: The module; its tensors may be on the meta device.
        accelerator: As Lightning's Trainer takes it.
        num_devices: Devices of this machine that train; on a CPU these are processes, which share its memory.
        optimizer_on_cpu: Whether the optimiser's moments are kept in host memory.
        ema_on_cpu: Whether the averages are kept in host memory.

    Raises:
        ConfigError: If the training devices have less memory.
    """
    parameters = sum(p.numel() for p in module.parameters())
    on_cuda = torch.cuda.is_available() and accelerator != "cpu"
    # Weights, gradients, two moments of AdamW and two averages, each in float32.
    copies = 2 + (0 if optimizer_on_cpu and on_cuda else 2) + (0 if ema_on_cpu and on_cuda else 2)
    needed = 4 * copies * parameters
    name = getattr(module, "model_name", type(module).__name__)
    on_each = f" on each of {num_devices} devices, {format_bytes(num_devices * needed)} in all" * (num_devices > 1)
    log.info(
        "%s: %.1fM parameters, %s for weights, gradients, optimiser and averages%s, plus activations",
        name,
        parameters / 1e6,
        format_bytes(needed),
        on_each,
    )
    total = int(torch.cuda.get_device_properties(0).total_memory) * num_devices if on_cuda else _host_memory()
    if total is not None and num_devices * needed > total:
        fewer = "train on fewer devices, " if num_devices > 1 and not on_cuda else ""
        raise ConfigError(
            f"{name} needs at least {format_bytes(needed)}{on_each}, and this machine has {format_bytes(total)}; "
            f"{fewer}choose a smaller one (`jitflow models`), or keep averages and optimiser in the host's memory "
            "(--ema_on_cpu, --optimizer_on_cpu)"
        )


def _host_memory() -> int | None:
    """Return the memory of this machine in bytes; None if unknown."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def device_memory(device: torch.device) -> int | None:
    """Return the memory of an accelerator, or the available memory for a CPU, in bytes; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    table = Path("/proc/meminfo")
    if table.is_file():
        # Unlike free memory this counts what the system caches of files, which it gives back.
        entries = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
        if "MemAvailable" in entries:
            return 1024 * int(entries["MemAvailable"].split()[0])
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
