"""Device utilisation: peak memory, and the share of peak FLOPs that a model uses (MFU)."""

from __future__ import annotations

import sys

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from jitflow.core.condition_table import with_conditions
from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT
from jitflow.training.module import FlowModule

# Dense bfloat16 peak of the tensor cores by a part of the device's name, from NVIDIA's data sheets.
_PEAK_BF16 = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
# A backward pass needs twice the multiplications of the forward pass.
_TRAINING_OVER_FORWARD = 3


def training_flops(module: FlowModule) -> int | None:
    """Count the floating-point operations of training on one image: three times those of the forward pass.

    Recomputation for gradient checkpointing and the extra pass of self-conditioning do not count.

    Args:
        module: The module; its network is not run, and no memory is allocated.

    Returns:
        Operations, two for each multiply-accumulate of a matrix product; None for a network of another library.
    """
    net = module.net
    if not isinstance(net, JiT | LightningDiT):
        return None
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shapes = {name: value.detach().to("meta") for name, value in tensors.items()}
    x = torch.zeros(1, *module.codec.shape, device="meta", dtype=next(net.parameters()).dtype)
    t, classes = torch.zeros(1, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
    y = with_conditions(classes, module.conditions)
    inputs = (x, t, y, x) if module.takes_hints else (x, t, y)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.compiler.set_stance("force_eager"):
        functional_call(net, shapes, inputs)
    return _TRAINING_OVER_FORWARD * counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Return the peak bfloat16 operations per second of an accelerator; None if unknown, as for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_BF16.items() if part in name), None)


def peak_images_per_sec(module: FlowModule, *, num_devices: int) -> float | None:
    """Return the images per second of training at the devices' peak FLOPs; None if the peak is unknown.

    Args:
        module: The module, on one of the devices.
        num_devices: Number of devices of this kind.

    Returns:
        The rate; the measured one divided by it is the model's FLOPs utilisation (MFU).
    """
    peak = peak_flops(module.device)
    flops = training_flops(module) if peak is not None else None
    return num_devices * peak / flops if peak is not None and flops else None


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory in GiB: of the accelerator if there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not available on Windows

    # Kilobytes, but bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
