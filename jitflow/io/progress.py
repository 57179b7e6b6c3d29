"""Progress of long work: a bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jitflow.io.units import format_seconds

log = logging.getLogger(__name__)
LINE_EVERY_SEC = 15.0
"""Seconds between two lines of progress in a log."""


class Meter:
    """What long work tells about itself.

    Args:
        label: What is being done.
        total: How many things there are to do, in ``unit``.
        unit: What is counted.
        bar: The bar of a terminal, None where there is none.
    """

    def __init__(self, label: str, total: float, unit: str, bar: Progress | None) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self._bar = bar
        self._task = bar.add_task(label, total=total, rate="") if bar is not None else None
        self._start = self._lined = time.monotonic()
        self._first: float | None = None

    def update(self, done: float) -> None:
        """Say how much is done; the rate counts from the first call on, so that resumed work shows its own pace."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        seconds = now - self._start
        rate = (done - self._first) / seconds if seconds > 0 else 0.0
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.1f} {self.unit}/s" if rate else "")
        elif now - self._lined >= LINE_EVERY_SEC and rate > 0:
            self._lined = now
            left = format_seconds((self.total - done) / rate)
            log.info("%s %d/%d  %.1f %s/s  ETA %s", self.label, done, self.total, rate, self.unit, left)

    def update_share(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` equal steps of the whole are done, as an ``on_progress`` callback does."""
        self.update(self.total * done / total)


@contextmanager
def meter(label: str, total: float, *, unit: str = "images") -> Iterator[Meter]:
    """Show the progress of the block.

    Args:
        label: What is being done.
        total: How many things there are to do.
        unit: What is counted.

    Yields:
        The meter to update.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Meter(label, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console) as bar:
        yield Meter(label, total, unit, bar)
