"""Limits within which every reader ends: 5 s of processor time, and 500 MB above what the process has."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 5
MEGABYTES = 500


class TooSlowError(BaseException):
    """A reader did not come back; no handler of errors takes it for one of its own."""


def _alarm(number: int, frame: Any) -> None:
    raise TooSlowError


@contextlib.contextmanager
def limits(*, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> Iterator[None]:
    """Run a block within limits: beyond them it ends with TooSlowError, or with what a failed allocation raises.

    Args:
        seconds: Processor time.
        megabytes: Memory above what the process has.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    former = signal.signal(signal.SIGPROF, _alarm)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, former)
