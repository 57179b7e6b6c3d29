"""Turns of benchmarks that prepare side by side on one device: all compile at once, and time one after another.

``gpu_visit.py`` gives every process of a visit the path of its turn, ``<folder>/<part>``, in an environment variable.
The process writes ``<path>.ready`` when it is ready to be timed, and waits for ``<path>.go``. It has one turn, until it
ends. Without the variable a benchmark runs alone and waits for nobody.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from _part import VARIABLE

_POLL_SEC = 0.05
# Others that warm up at the same time need their memory for some seconds only.
_MOST_TRIES, _PAUSE_SEC = 20, 4.0
_NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_has_turn = False

Result = TypeVar("Result")


def together() -> bool:
    """Whether other benchmarks may be running on the device now: in a visit, before this process has its turn."""
    return bool(os.environ.get(VARIABLE)) and not _has_turn


def wait_for_turn() -> bool:
    """Say that this process is ready for its timing, and wait until no other one is being timed.

    What torch has freed on a GPU is given back first, for the benchmark whose turn it is.

    Returns:
        Whether it had to wait; false for a benchmark that runs alone or has its turn already.

    Raises:
        SystemExit: If the visit has ended.
    """
    global _has_turn
    if not together():
        return False
    free_memory()
    path, visit = os.environ[VARIABLE], os.getppid()
    Path(f"{path}.ready").touch()
    while not Path(f"{path}.go").exists():
        if os.getppid() != visit:
            sys.exit("the visit ended before this benchmark had its turn")
        time.sleep(_POLL_SEC)
    _has_turn = True
    return True


def warm_up(function: Callable[[], Result]) -> Result:
    """Run a function that prepares a benchmark, again if a device that others use as well has no memory for it now.

    Others may still be preparing when its turn begins, so this is for what comes just before the timing, too.

    Args:
        function: The function; it must be able to start anew after a failure.

    Returns:
        What it returns.

    Raises:
        RuntimeError: As the function does; without a second try for a benchmark that runs alone.
    """
    for tries_left in reversed(range(_MOST_TRIES)):
        try:
            return function()
        except RuntimeError as error:
            if not (os.environ.get(VARIABLE) and tries_left and _lacks_memory(error)):
                raise
            print(f"no memory beside the others, trying again: {str(error).splitlines()[0][:120]}", flush=True)
        # Outside the handler, whose traceback keeps the tensors of the failed try.
        free_memory()
        time.sleep(_PAUSE_SEC)
    raise AssertionError("the last try returns or raises")


def free_memory() -> None:
    """Give unused memory of a GPU back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _lacks_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY)
