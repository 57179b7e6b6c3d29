"""Map a function over tasks in worker processes, with bounded memory and progress for each item."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from jitflow.errors import MOST_PROCESSES, ConfigError, check_count
from jitflow.io.processes import begin_worker, safe_import_path

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task, Callable[[], None]], Result]
"""A function of a task and of a callback that it calls after each item."""

_POLL_SEC = 0.2


def map_processes(
    work: Work[Task, Result], tasks: Iterable[Task], *, workers: int, on_items: Callable[[int], None]
) -> Generator[Result, None, None]:
    """Run a function over tasks in several worker processes.

    Args:
        work: A function at module level, so that it can be pickled.
        tasks: Consumed lazily; at most two for each process are queued at a time.
        workers: Most processes, one for a task at most; 1 runs everything in this process.
        on_items: Called from time to time with the number of items done so far.

    Yields:
        The results in order of completion. Closing the generator stops the processes at their next item.

    Raises:
        ConfigError: If a process was killed from outside, as happens when memory runs out.
    """
    check_count("worker processes", workers, most=MOST_PROCESSES)
    if workers == 1:
        yield from _map_in_process(work, tasks, on_items)
        return
    # Spawned processes: a fork would copy locks that other threads of this process hold.
    queue = iter(tasks)
    first = list(islice(queue, workers))
    context = multiprocessing.get_context("spawn")
    with safe_import_path():
        counter, stop = context.Value("q", 0), context.Value("b", 0, lock=False)
    with ProcessPoolExecutor(max(1, len(first)), context, _start_worker, (counter, stop)) as pool:
        queue = chain(first, queue)
        pending: set[Future[Result]] = set()
        try:
            while True:
                with safe_import_path():
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


def _map_in_process(
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
    begin_worker()


def _run(work: Work[Task, Result], task: Task) -> Result:
    return work(task, _tick)


def _tick() -> None:
    with _counter.get_lock():
        _counter.value += 1
    if _stop.value:
        raise _StoppedError
