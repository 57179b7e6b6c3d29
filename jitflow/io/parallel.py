"""Work spread over processes: bounded memory, progress for each item, and nobody left behind after a kill."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from jitflow.errors import ConfigError

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task, Callable[[], None]], Result]
"""A function of a task and of what it is to call after each item."""

_POLL_SEC = 0.2


def map_processes(
    work: Work[Task, Result], tasks: Iterable[Task], *, workers: int, on_items: Callable[[int], None]
) -> Generator[Result, None, None]:
    """Run a function over tasks in several processes.

    Args:
        work: A function of a module, so that a process can find it by name.
        tasks: Taken as they are needed; no more than two for each process wait at a time.
        workers: How many processes; 1 works in this one.
        on_items: Called now and then with the number of items done so far.

    Yields:
        The results, as they come. Closing the generator stops the processes at their next item.

    Raises:
        ConfigError: If a process was killed from outside, as happens when memory runs out.
    """
    if workers == 1:
        yield from _map_here(work, tasks, on_items)
        return
    # Fresh processes: a fork would take along whatever lock a thread of this one holds.
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Value("b", 0, lock=False)
    with ProcessPoolExecutor(workers, context, _start_worker, (counter, stop)) as pool:
        queue = iter(tasks)
        pending: set[Future[Result]] = set()
        try:
            while True:
                pending |= {pool.submit(_run, work, task) for task in islice(queue, 2 * workers - len(pending))}
                if not pending:
                    break
                done, pending = wait(pending, _POLL_SEC, FIRST_COMPLETED)
                on_items(counter.value)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise ConfigError(
                "a worker process was killed, perhaps because memory ran out; try again with fewer "
                "processes (--workers or --num_processes)"
            ) from None
        finally:
            stop.value = 1
            pool.shutdown(cancel_futures=True)


def _map_here(
    work: Work[Task, Result], tasks: Iterable[Task], on_items: Callable[[int], None]
) -> Generator[Result, None, None]:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        on_items(count)

    for task in tasks:
        yield work(task, tick)


class _StoppedError(Exception):
    """Raised inside a worker when the rest of the work has failed or was interrupted."""


_counter: Any = None
_stop: Any = None


def _start_worker(counter: Any, stop: Any) -> None:
    global _counter, _stop
    _counter, _stop = counter, stop
    # Ctrl-C goes to every process of the terminal; the main one says what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process would wait for ever for a parent that was killed, or go on writing behind its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(work: Work[Task, Result], task: Task) -> Result:
    return work(task, _tick)


def _tick() -> None:
    with _counter.get_lock():
        _counter.value += 1
    if _stop.value:
        raise _StoppedError
