"""Being asked to stop: Ctrl-C, SIGTERM, SIGUSR1, noticed at once and obeyed by all processes at the same step."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch

log = logging.getLogger(__name__)

# SIGUSR1 is what SLURM is told to send ahead of a job's end; Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
# A process that died closes its connection, which is noticed at once; this is for a machine that went dark. Longer
# than anything that one process does alone between two steps, such as drawing samples.
_TIMEOUT = timedelta(minutes=30)


class StopRequest:
    """Listens to signals during a training and tells all its processes the same thing at the same step.

    The first signal is remembered. Ctrl-C after it, or a second signal of any kind, does what it did before.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._group: Any = None

    def listen(self) -> None:
        """Take over the signals, if this is the main thread, and connect the processes of a distributed run.

        Every process must call it. Lightning's own handlers (its reaction to SIGTERM waits for the other processes
        inside the handler, its SLURM mode saves a checkpoint that would be resumed in place of ours) are replaced.
        """
        self.release()
        self._signal = 0
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._remember) for number in SIGNALS}
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._group = None
        if distributed and torch.distributed.get_world_size() > 1:
            # Over the CPU: asking a GPU would make every step wait for it.
            self._group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            # None: installed by something that is not Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}

    def received(self) -> int:
        """Return the number of the signal that any process got, or 0; with several processes all must call it."""
        if self._group is None:
            return self._signal
        asked = torch.tensor([self._signal])
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return int(asked)

    def _remember(self, number: int, frame: Any) -> None:
        self._signal = number
        self.release()
        log.info("%s: saving after this step; again to quit at once", signal.Signals(number).name)


def stop_exception(number: int) -> BaseException:
    """Return what ends a training after a signal: KeyboardInterrupt, or SystemExit with status 128 + number."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def resumable_exit(trainer: pl.Trainer, way_on: str) -> Iterator[None]:
    """Run ``trainer.fit`` so that a stop by a signal ends as it should, and the processes' connections with it.

    Lightning turns Ctrl-C into an exit of status 1; it becomes KeyboardInterrupt again. The exit after another signal
    (:func:`stop_exception`) passes.

    Args:
        trainer: What fits.
        way_on: How to go on, for the log, such as ``"the same command goes on"``.
    """
    try:
        yield
    except SystemExit as exit:
        if not trainer.interrupted:
            raise
        log.info("interrupted; %s", way_on)
        # 0: what a process other than the first ends with.
        if isinstance(exit.code, int) and (exit.code == 0 or exit.code > 128):
            raise
        raise KeyboardInterrupt from None
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # A process that ends with its communication threads still running can be aborted after all work is done.
            torch.distributed.destroy_process_group()
