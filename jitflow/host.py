"""Tune OpenMP's waiting threads and glibc's memory allocator for training on a CPU.

``benchmarks/bench_host.py`` measures both. Environment variables of these libraries that a user has set win.
"""

from __future__ import annotations

import ctypes
import os

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
