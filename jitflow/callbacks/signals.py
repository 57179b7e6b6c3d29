"""Stop on Ctrl-C, SIGTERM or SIGUSR1: all processes of a training stop at the same step."""

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

# SLURM can be configured to send SIGUSR1 before a job's time limit; Windows does not have it.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
# A dead process closes its connection, which is noticed at once; this timeout is for a machine that stops responding.
# Longer than anything that one process does alone between two steps, such as drawing samples.
_TIMEOUT = timedelta(minutes=30)


class StopRequest:
    """Signal listener of a training, which reports the same signal to all processes at the same step.

    The first signal is stored. Ctrl-C after it, or a second signal of any kind, has its previous effect.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._group: Any = None

    def listen(self) -> None:
        """Install signal handlers, if this is the main thread, and connect the processes of a distributed run.

        A collective call. Lightning's own handlers are replaced: the one for SIGTERM waits for other processes inside
        the handler, and the SLURM one saves a checkpoint that would be resumed in place of ours.
        """
        self.release()
        self._signal = 0
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._remember) for number in SIGNALS}
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._group = None
        if distributed and torch.distributed.get_world_size() > 1:
            # On the CPU: a GPU collective would make every step wait.
            self._group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)

    def release(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._handlers.items():
            # None: the handler was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}

    def received(self) -> int:
        """Return the number of the signal that any process received, or 0; a collective call with several processes."""
        if self._group is None:
            return self._signal
        number_received = torch.tensor([self._signal])
        torch.distributed.all_reduce(number_received, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return int(number_received)

    def _remember(self, number: int, frame: Any) -> None:
        self._signal = number
        self.release()
        log.info("%s: saving after this step; again to quit at once", signal.Signals(number).name)


def stop_exception(number: int) -> BaseException:
    """Return the exception that ends a training after a signal: KeyboardInterrupt, or SystemExit(128 + number)."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def resumable_exit(trainer: pl.Trainer, resume_hint: str) -> Iterator[None]:
    """Run ``trainer.fit`` in the block; a signal sets the exit status, and the process group is destroyed at the end.

    Lightning turns Ctrl-C into an exit with status 1; this converts it back to KeyboardInterrupt. The exit after
    another signal (:func:`stop_exception`) is passed on.

    Args:
        trainer: The trainer.
        resume_hint: How to resume, for the log, such as ``"the same command resumes"``.
    """
    try:
        yield
    except SystemExit as exit:
        if not trainer.interrupted:
            raise
        log.info("interrupted; %s", resume_hint)
        # 0: the exit status of a process other than the first.
        if isinstance(exit.code, int) and (exit.code == 0 or exit.code > 128):
            raise
        raise KeyboardInterrupt from None
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # A process that exits while its communication threads run can be aborted after all work is done.
            torch.distributed.destroy_process_group()
