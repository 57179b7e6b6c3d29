"""Report progress: a bar in a terminal, log lines at intervals elsewhere."""

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
    """Progress of a task, shown as a bar or as log lines.

    Args:
        label: Name of the task.
        total: Number of items to do, in ``unit``.
        unit: What is counted.
        bar: The terminal's progress bar, or None without a terminal.
    """

    def __init__(self, label: str, total: float, unit: str, bar: Progress | None) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self._bar = bar
        self._task = bar.add_task(label, total=total, rate="") if bar is not None else None
        self._start = self._last_line = time.monotonic()
        self._first: float | None = None

    def update(self, done: float) -> None:
        """Report the number of items done; the rate counts from the first call, so resumed work shows its own speed."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        seconds = now - self._start
        rate = (done - self._first) / seconds if seconds > 0 else 0.0
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.1f} {self.unit}/s" if rate else "")
        elif now - self._last_line >= LINE_EVERY_SEC and rate > 0:
            self._last_line = now
            left = format_seconds((self.total - done) / rate)
            log.info("%s %d/%d  %.1f %s/s  ETA %s", self.label, done, self.total, rate, self.unit, left)

    def update_share(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` equal steps of the whole are done, as an ``on_progress`` callback does."""
        self.update(self.total * done / total)


@contextmanager
def meter(label: str, total: float, *, unit: str = "images") -> Iterator[Meter]:
    """Show the progress of the work in a ``with`` block.

    Args:
        label: Name of the task.
        total: Number of items to do.
        unit: What is counted.

    Yields:
        The meter to update.
    """
    console = Console(markup=False, stderr=True)
    if not console.is_terminal:
        yield Meter(label, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console) as bar:
        yield Meter(label, total, unit, bar)
