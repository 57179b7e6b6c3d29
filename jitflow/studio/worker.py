"""Run sampling in a thread that reports progress and stops when its events are no longer read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from PIL import Image

from jitflow.studio.drawing import Drawing, OnFrame

Event = tuple[int, int, Image.Image]
"""Progress event of ``on_frame``: steps done, total steps, current images."""


# Two requests at a time would each take twice as long, and twice the memory.
_SAMPLING_LOCK = threading.Lock()


class StoppedError(Exception):
    """The sampling was stopped by the user."""


def events_of(work: Callable[[OnFrame], Drawing], stopped: threading.Event) -> Iterator[Event | Drawing]:
    """Run sampling in a thread; yield its progress events, then its result, or raise its exception.

    Args:
        work: Function that generates samples and reports progress to its argument. It waits for other work to end.
        stopped: Set it to stop the work at its next report, which raises StoppedError here; also set when the iterator
            is closed early.
    """
    events: queue.Queue[Event | Drawing | BaseException] = queue.Queue()

    def report(done: int, total: int, picture: Image.Image) -> None:
        if stopped.is_set():
            raise StoppedError
        events.put((done, total, picture))

    def run() -> None:
        try:
            with _SAMPLING_LOCK:
                events.put(work(report))
        # Passed to the waiting thread, which raises it.
        except BaseException as error:  # noqa: BLE001
            events.put(error)

    threading.Thread(target=run, daemon=True).start()
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
