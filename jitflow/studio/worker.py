"""Sampling in a thread of its own: it reports its progress, and ends when its reports are no longer read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from PIL import Image

from jitflow.studio.drawing import Drawing, OnFrame

Event = tuple[int, int, Image.Image]
"""Arguments of ``on_frame``: steps done, steps in all, the images as they are now."""


# Two drawings at once would each take twice as long, and need twice the memory.
_ONE_AT_A_TIME = threading.Lock()


class StoppedError(Exception):
    """Somebody ended the work before its time."""


def events_of(work: Callable[[OnFrame], Drawing], stopped: threading.Event) -> Iterator[Event | Drawing]:
    """Run work in a thread; yield what it reports, then what it returns, or raise what it raised.

    Args:
        work: Draws, and tells its argument how far it is. It starts when other work has ended.
        stopped: Set to end the work at its next report, which raises StoppedError here; also set when the iterator is
            closed before its end.
    """
    events: queue.Queue[Event | Drawing | BaseException] = queue.Queue()

    def report(done: int, in_all: int, picture: Image.Image) -> None:
        if stopped.is_set():
            raise StoppedError
        events.put((done, in_all, picture))

    def run() -> None:
        try:
            with _ONE_AT_A_TIME:
                events.put(work(report))
        # Handed over to the thread that waits, which raises it.
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
