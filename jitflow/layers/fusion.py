"""Choice between the plain formulas of the layers and the kernels for CUDA, which give the same up to rounding."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# The widest tile of a kernel; a wider row would not fit a program's registers.
_MAX_WIDTH = 4096
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Types of devices that have the kernels.
DEVICES = {"cuda"}
# Triton compiles a little C for each kernel that it launches, and so do compiled networks on CUDA.
HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_C_COMPILER = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
# Ampere and later; older GPUs have no bfloat16 for Triton.
_CAPABILITY = (8, 0)
NO_KERNELS = (
    "training is not compiled here and uses the plain formulas, both slower: that needs Triton, a C compiler (gcc, "
    "clang or $CC) and a GPU of compute capability 8.0 or more"
)
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
    kind, index = x.device.type, x.device.index
    fits = x.dtype in _DTYPES and x.shape[-1] <= _MAX_WIDTH
    return kind in DEVICES and _enabled and fits and runs_kernels(kind, index)


# A constant for the compiler, which need not look into it.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def runs_kernels(kind: str = "cuda", index: int | None = None) -> bool:
    """Whether kernels can be built and run: with Triton and a C compiler, on a GPU that computes in bfloat16.

    Args:
        kind: Type of the device.
        index: Its index; None for the current one.
    """
    is_new = kind != "cuda" or not torch.cuda.is_available() or torch.cuda.get_device_capability(index) >= _CAPABILITY
    return HAS_TRITON and HAS_C_COMPILER and is_new


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether a layer is just a product and a bias, so that a kernel can add the bias: no subclass, no hook."""
    return type(layer) is nn.Linear and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """Precision in which a linear layer would take a tensor: that of autocast if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
