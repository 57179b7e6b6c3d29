"""Choice between the plain formulas of the layers and the kernels for CUDA, which give the same up to rounding."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# The widest tile of a kernel; a wider row would not fit a program's registers.
_MAX_WIDTH = 4096
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Types of devices that have the kernels.
DEVICES = {"cuda"}
HAS_TRITON = importlib.util.find_spec("triton") is not None
_enabled = True


@contextmanager
def kernels_on(kind: str) -> Iterator[None]:
    """Use the kernels inside the block on another type of device, too: for tensors without storage, say."""
    added = kind not in DEVICES
    DEVICES.add(kind)
    try:
        yield
    finally:
        if added:
            DEVICES.discard(kind)


@contextmanager
def plain_formulas() -> Iterator[None]:
    """Use the plain formulas inside the block on every device: for derivatives that the kernels do not have, say."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def fuses(x: Tensor) -> bool:
    """Whether the kernels of :mod:`jitflow.kernels` take a tensor: on CUDA, in a usual precision, not too wide."""
    return x.device.type in DEVICES and _enabled and HAS_TRITON and x.dtype in _DTYPES and x.shape[-1] <= _MAX_WIDTH


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether a layer is just a product and a bias, so that a kernel can add the bias: no subclass, no hook."""
    return type(layer) is nn.Linear and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """Precision in which a linear layer would take a tensor: that of autocast if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
