"""Data loader whose workers fit into shared memory, and which says when no batch comes.

Workers hand their batches over in shared memory (``/dev/shm``), of which Docker gives 64 MB by default: a worker that
finds it full fails in a thread, and the training would wait for ever.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from jitflow.errors import ConfigError, DataError
from jitflow.io.cores import available_cores
from jitflow.io.units import format_bytes

log = logging.getLogger(__name__)

LOADER_TIMEOUT_SEC = 1800.0
SLOW_SEC = 60.0
SHARED_MEMORY = Path("/dev/shm")
# Batches that a worker prepares ahead, torch's default; and those in use by the training meanwhile.
_PREFETCHED, _IN_USE = 2, 2
# The training's and the validation's loader may both have batches ready.
_SHARE = 0.5
# Files that a batch keeps open (images, labels, index), and those of a worker: its queue, pipes and sentinel.
_FILES_PER_BATCH, _FILES_PER_WORKER, _SPARE_FILES = 3, 6, 24


class WatchedLoader(DataLoader[Any]):
    """Data loader that warns when its workers have given no batch for a minute.

    torch's ``timeout`` ends the wait with a DataError.

    Attributes:
        title: Name in messages, such as ``training``.
    """

    title: str = "data"

    def __iter__(self) -> Any:
        """Iterate over the batches, watched by a thread if workers load them."""
        if not self.num_workers:
            return super().__iter__()
        if getattr(self, "_watching_process", None) != os.getpid():
            self._watching_process = os.getpid()
            self.waiting_since: float | None = None
            threading.Thread(target=_warn_of_waiting, args=(weakref.ref(self),), name="loader", daemon=True).start()
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        batches: Iterator[Any] | None = None
        while True:
            self.waiting_since = time.monotonic()
            try:
                # The workers start, or go on, with the iterator.
                batches = super().__iter__() if batches is None else batches
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "timed out" not in str(error):
                    raise
                raise DataError(
                    f"the {self.title} loader has given no batch for {self.timeout:,g} s (data.loader_timeout), "
                    f"{describe_workers(self.num_workers)}; look at the storage and the code of the data set, or try "
                    "num_workers 0"
                ) from None
            finally:
                self.waiting_since = None
            yield batch


def _warn_of_waiting(reference: weakref.ref[WatchedLoader]) -> None:
    """Log a warning for each wait that takes long; ends with the loader."""
    warned: float | None = None
    while (loader := reference()) is not None:
        since = loader.waiting_since
        if since is not None and since != warned and time.monotonic() - since >= SLOW_SEC:
            warned = since
            log.warning(
                "the %s loader has given no batch for %g s, %s; the run ends after %s s without one",
                loader.title,
                SLOW_SEC,
                describe_workers(loader.num_workers),
                f"{loader.timeout:,g}",
            )
        del loader
        time.sleep(min(1.0, SLOW_SEC / 4))


def describe_workers(num_workers: int) -> str:
    """Describe the workers of a loader and the shared memory that is left for their batches."""
    free = shared_memory_bytes()
    room = "" if free is None else f", {format_bytes(free)} of shared memory free"
    return f"{num_workers} worker{'s' if num_workers > 1 else ''}{room}"


def check_timeout(seconds: float) -> None:
    """Raise ConfigError unless the timeout of a data loader is a positive number of seconds."""
    if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise ConfigError(f"loader_timeout must be a positive number of seconds; got {seconds}")


def worker_arguments(
    wanted: int, batch_bytes: int, *, timeout: float = LOADER_TIMEOUT_SEC, num_processes: int = 1
) -> dict[str, Any]:
    """Return the arguments of a :class:`WatchedLoader` for as many workers as cores and shared memory allow.

    A smaller number than the wanted one is logged. Where their batches would keep too many files open, torch shares
    them by name, which is logged too.

    Args:
        wanted: Number of workers.
        batch_bytes: Size of a batch.
        timeout: Seconds without a batch that end the wait.
        num_processes: Processes of this machine that each have such a loader.

    Returns:
        ``num_workers`` and, if that is not 0, ``prefetch_factor`` and ``timeout``.
    """
    workers = min(wanted, available_cores())
    if workers < wanted:
        log.info("%d loader workers for %d CPU cores (num_workers=%d)", workers, workers, wanted)
    free = shared_memory_bytes()
    fitting, prefetched = workers, _PREFETCHED
    if free is not None:
        fitting, prefetched = fit_workers(workers, batch_bytes, free // num_processes)
    if fitting < workers:
        needed = batch_bytes * (workers + _IN_USE) / _SHARE * num_processes
        log.warning(
            "%s instead of %d: batches of %s need %s in %s, where %s are free; give the container more "
            "(docker run --shm-size), or lower batch_size",
            f"{fitting} loader workers" if fitting else "no loader workers",
            workers,
            format_bytes(batch_bytes),
            format_bytes(int(needed)),
            SHARED_MEMORY,
            format_bytes(free or 0),
        )
    if not fitting:
        return {"num_workers": 0}
    _share_within_limit(fitting, prefetched)
    return {"num_workers": fitting, "prefetch_factor": prefetched, "timeout": timeout}


def fit_workers(wanted: int, batch_bytes: int, free_bytes: int) -> tuple[int, int]:
    """Return how many loader workers fit into shared memory, and how many batches each may prepare ahead.

    Args:
        wanted: Number of workers.
        batch_bytes: Size of a batch.
        free_bytes: Free shared memory; half of it is used.
    """
    batches = int(free_bytes * _SHARE) // max(1, batch_bytes) - _IN_USE
    if wanted * _PREFETCHED <= batches:
        return wanted, _PREFETCHED
    return max(0, min(wanted, batches)), 1


def shared_memory_bytes() -> int | None:
    """Return the free bytes of shared memory; None where the system does not limit it by a file system."""
    if not SHARED_MEMORY.is_dir():
        return None
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bavail * found.f_frsize


def _share_within_limit(workers: int, prefetched: int) -> None:
    """Let torch share tensors by name where each as an open file would exceed the limit of open files."""
    if torch.multiprocessing.get_sharing_strategy() != "file_descriptor":
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    batches = workers * prefetched + _IN_USE
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    needed = used + batches * _FILES_PER_BATCH + workers * _FILES_PER_WORKER + _SPARE_FILES
    if limit != resource.RLIM_INFINITY and needed > limit:
        torch.multiprocessing.set_sharing_strategy("file_system")
        log.info("%d open files are allowed (ulimit -n) and loader workers need %d: shared by name", limit, needed)


def start_method() -> str | None:
    """Return how loader workers start: ``fork`` where it is the default, since a user's lambdas cannot be pickled."""
    chosen = torch.multiprocessing.get_start_method(allow_none=True)
    return "fork" if chosen is None and sys.platform == "linux" else chosen
