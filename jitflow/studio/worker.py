"""Run sampling in a thread, one request after another, that reports progress and stops when it is told to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from PIL import Image

from jitflow.errors import ConfigError
from jitflow.studio.drawing import Drawing, OnFrame

Event = tuple[int, int, Image.Image]
"""Progress event of ``on_frame``: steps done, total steps, current images."""
Work = Callable[[OnFrame, Callable[[], None]], Drawing]
"""Sampling that calls its first argument with its progress, and its second before each call of the network."""
MAX_WAITING = 30
"""Requests that wait at most; each takes a thread of the server."""
_POLL_SEC = 0.2


class StoppedError(Exception):
    """The sampling was stopped by the user."""


class WaitingLine:
    """Line of sampling requests, of which the first is served.

    Two requests at a time would each take twice as long, and twice the memory.
    """

    def __init__(self) -> None:
        self._line: list[threading.Event] = []
        self._served: threading.Event | None = None
        self._changed = threading.Condition()

    def join(self, stopped: threading.Event) -> None:
        """Take the last place.

        Args:
            stopped: Names the request; once it is set, its place counts no longer, unless it is being served.

        Raises:
            ConfigError: If too many wait.
        """
        with self._changed:
            if len(self._waiting()) > MAX_WAITING:
                raise ConfigError(f"{MAX_WAITING} requests are waiting already; try again later")
            self._line.append(stopped)

    def leave(self, stopped: threading.Event) -> None:
        """Give up a place, before or after the sampling."""
        with self._changed:
            self._line = [other for other in self._line if other is not stopped]
            self._served = None if self._served is stopped else self._served
            self._changed.notify_all()

    def places(self, stopped: threading.Event) -> Iterator[int]:
        """Yield the number of requests ahead whenever it changes, until this one is served.

        Args:
            stopped: Names the request.

        Raises:
            StoppedError: If it is set meanwhile.
        """
        last = 0
        while True:
            with self._changed:
                waiting = self._waiting()
                if stopped not in waiting:
                    raise StoppedError
                ahead = waiting.index(stopped)
                if not ahead:
                    self._served = stopped
                    return
                if ahead == last:
                    self._changed.wait(_POLL_SEC)
            if ahead != last:
                last = ahead
                yield ahead

    def _waiting(self) -> list[threading.Event]:
        """Return the requests that count: the one being served, even if it has yet to end, and those not stopped."""
        return [event for event in self._line if event is self._served or not event.is_set()]


def events_of(work: Work, stopped: threading.Event) -> Iterator[Event | Drawing]:
    """Run sampling in a thread; yield its progress events, then its result, or raise its exception.

    Args:
        work: Function that generates samples.
        stopped: Set it to stop the work at its next report or call of the network, which raises StoppedError here;
            also set when the iterator is closed early, which waits for the end of the work.
    """
    events: queue.Queue[Event | Drawing | BaseException] = queue.Queue()

    def check() -> None:
        if stopped.is_set():
            raise StoppedError

    def report(done: int, total: int, picture: Image.Image) -> None:
        check()
        events.put((done, total, picture))

    def run() -> None:
        try:
            events.put(work(report, check))
        # Passed to the waiting thread, which raises it.
        except BaseException as error:  # noqa: BLE001
            events.put(error)

    thread = threading.Thread(target=run, name="sampling", daemon=True)
    thread.start()
    try:
        while True:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Drawing):
                return
    except GeneratorExit:
        stopped.set()
        raise
    finally:
        thread.join()
