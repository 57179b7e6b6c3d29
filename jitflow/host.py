"""Tune the machine's libraries: OpenMP's waiting threads and glibc's memory allocator on a CPU, TF32 on CUDA.

``benchmarks/bench_host.py`` measures the first two. Environment variables of these libraries that a user has set win.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

# How often an idle thread polls for work before it sleeps. A thread that sleeps at once must be woken for each of a
# step's hundreds of small kernels; one that polls for long keeps other processes off the core. The second variable is
# for LLVM's and Intel's OpenMP, in milliseconds (untested).
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
_WAIT_POLICY = "OMP_WAIT_POLICY"

# Parameters of glibc's mallopt, and how many freed bytes it may keep: a network's activations fit within them, and
# larger blocks still go back to the system.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAX_KEPT_BYTES, _MAX_KEPT_BLOCK_BYTES = 2**30, 2**27
# What glibc before 2.35 allows.
_MAX_KEPT_BLOCK_BYTES_OLD_GLIBC = 2**25
# 0 disables TF32 in all of NVIDIA's libraries.
_TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def let_threads_wait_briefly() -> None:
    """Set how long OpenMP's threads poll for work, unless the environment sets it; call before torch is imported."""
    if _WAIT_POLICY not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)


def thread_waiting() -> str | None:
    """Environment variable that sets how OpenMP's threads wait, such as ``GOMP_SPINCOUNT=1000``; None if unset."""
    names = (_WAIT_POLICY, *WAITING)
    return next((f"{name}={os.environ[name]}" for name in names if name in os.environ), None)


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep the memory that a training step has freed for the next step.

    Otherwise glibc returns large blocks to the system and requests them again, page by page, in every step. Up to
    1 GiB stays with the process.

    Returns:
        Whether the setting was made: False without glibc, or where the environment sets the thresholds.
    """
    if any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        # Not glibc; Windows raises TypeError for None.
        return False
    at_once = mallopt(_MMAP_THRESHOLD, _MAX_KEPT_BLOCK_BYTES) or mallopt(
        _MMAP_THRESHOLD, _MAX_KEPT_BLOCK_BYTES_OLD_GLIBC
    )
    return bool(at_once and mallopt(_TRIM_THRESHOLD, _MAX_KEPT_BYTES))


@functools.cache
def allow_tf32() -> None:
    """Let float32 matrix products on CUDA run in TF32: a mantissa of 10 bits, several times the speed.

    Set once for each process, so that a later change of torch's flag stays. Nothing is set without CUDA, where
    ``NVIDIA_TF32_OVERRIDE=0`` asks for true float32, or where torch's flag has been changed before. Products on the CPU
    are not affected.
    """
    import torch

    if not torch.cuda.is_available() or os.environ.get(_TF32_VARIABLE) == "0":
        return
    if torch.backends.cuda.matmul.fp32_precision == "none":
        # Not torch.set_float32_matmul_precision, which would also change products on the CPU.
        torch.backends.cuda.matmul.allow_tf32 = True


def is_tf32_allowed() -> bool:
    """Whether float32 matrix products on CUDA run in TF32 in this process."""
    import torch

    return os.environ.get(_TF32_VARIABLE) != "0" and torch.backends.cuda.matmul.fp32_precision == "tf32"


@contextmanager
def full_float32() -> Iterator[None]:
    """Run the matrix products of the ``with`` block on CUDA in true float32, for decoders and measurements."""
    import torch

    if not is_tf32_allowed():
        yield
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = True
