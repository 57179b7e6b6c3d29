"""What the C libraries of this process do while it works on a CPU: threads that wait, memory that was freed.

``benchmarks/bench_host.py`` measures both. Whoever sets the variables of these libraries keeps their own choice.
"""

from __future__ import annotations

import ctypes
import os

# Looks for work before a waiting thread sleeps. A thread that sleeps at once is woken for each of a step's hundreds of
# small kernels; one that looks for long keeps others from the core. The second name is for LLVM's and Intel's
# libraries, in milliseconds (untested).
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
_WAIT_POLICY = "OMP_WAIT_POLICY"

# Arguments of glibc's mallopt, and how many bytes may lie unused: a network's activations fit below, and larger things
# are still given back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_IN_ALL, _KEPT_AT_ONCE = 2**30, 2**27
# What glibc before 2.35 allows.
_KEPT_AT_ONCE_AT_LEAST = 2**25
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def let_threads_wait_briefly() -> None:
    """Choose how OpenMP's threads wait for work, unless the environment says it; before torch is imported."""
    if _WAIT_POLICY not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)


def thread_waiting() -> str | None:
    """What the environment says about waiting threads, such as ``GOMP_SPINCOUNT=1000``; None for nothing."""
    names = (_WAIT_POLICY, *WAITING)
    return next((f"{name}={os.environ[name]}" for name in names if name in os.environ), None)


def keep_freed_memory() -> bool:
    """Let the allocator keep what a step has freed for the next one.

    Otherwise glibc hands large blocks back to the system and gets them anew, page by page, in every step. Up to
    1 GiB stays with the process.

    Returns:
        Whether it was done: not without glibc, and not where the environment chooses its thresholds.
    """
    if any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        # Another C library; TypeError is what Windows raises for None.
        return False
    at_once = mallopt(_MMAP_THRESHOLD, _KEPT_AT_ONCE) or mallopt(_MMAP_THRESHOLD, _KEPT_AT_ONCE_AT_LEAST)
    return bool(at_once and mallopt(_TRIM_THRESHOLD, _KEPT_IN_ALL))
