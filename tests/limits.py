"""Limits within which every reader has to end: five seconds, and 500 MB above what the process has."""

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
        seconds: Time on the clock.
        megabytes: Memory above what the process has.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    former = signal.signal(signal.SIGALRM, _alarm)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, former)
