"""Launching of Triton kernels from operators: captured by compilers, or run by Triton's interpreter in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from triton.runtime.jit import JITFunction


def wrap_triton(kernel: Any) -> Any:
    """Return a kernel in the form that ``torch.compile`` sees through; an interpreted one as it is.

    The name is that of :func:`torch.library.wrap_triton`: torch finds the kernels of an operator by looking for it in
    the source, so that a cache of compiled code knows when one has changed.
    """
    return torch.library.wrap_triton(kernel) if isinstance(kernel, JITFunction) else _Interpreted(kernel)


class _Interpreted:
    """A kernel for Triton's interpreter, which must not touch tensors without storage: only their shapes count."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            if not any(isinstance(arg, FakeTensor) for arg in args):
                self._kernel[grid](*args, **kwargs)

        return launch


def next_power_of_2(size: int) -> int:
    """Return the smallest power of two that is at least ``size``; kernels have such tiles."""
    return 1 << (size - 1).bit_length()


def row_contiguous(x: Tensor) -> Tensor:
    """Return ``x`` if its last two dimensions are contiguous, as the kernels read them, else a contiguous copy."""
    return x if x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] else x.contiguous()


def pointers(present: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    """Return tensors for a kernel's arguments, with one that is present for each that it does not read."""
    return [present if tensor is None else tensor for tensor in tensors]


def sample_strides(*tensors: Tensor | None) -> list[int]:
    """Return the strides from sample to sample of tensors; 0 for those that a kernel does not read."""
    return [0 if tensor is None else tensor.stride(0) for tensor in tensors]
