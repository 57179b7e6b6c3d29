"""Start further processes, such as the stages of a pipeline and its workers, which end when this process does.

A command runs in a session of its own, so that it and everything that it starts can be ended together. Neither commands
nor workers import modules of the working folder, where a stranger's file could lie.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jitflow

FORWARDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Signals that :func:`run_command` passes on to its process."""
_PARENT = "JITFLOW_PARENT_PIPE"
_SAFE_PATH = "PYTHONSAFEPATH"
# For a checkpoint of several gigabytes.
_SAVING_SEC = 120


def run_command(words: Sequence[str]) -> int:
    """Run a jitflow command in a process of its own session, and wait for its end.

    Signals in ``FORWARDED`` are passed on: the process decides what to save. It ends when this process does,
    killed or not (:func:`end_with_parent`), and what it leaves running is killed.

    Args:
        words: Words after ``jitflow``.

    Returns:
        Its exit status; negative if a signal ended it.

    Raises:
        KeyboardInterrupt: If a Ctrl-C was passed on; after the process has ended.
        SystemExit: If another signal was passed on: 128 and its number.
    """
    # Run as a file, jitflow/__main__.py keeps the working folder off the path, also when Lightning reruns it for DDP.
    command = [sys.executable, str(Path(jitflow.__file__).with_name("__main__.py")), *words]
    reading, writing = os.pipe()
    try:
        with _SignalForwarder() as signals:
            process = subprocess.Popen(
                command,
                env={**os.environ, _PARENT: str(reading)},
                pass_fds=[reading],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            signals.forward_to(process)
            try:
                status = process.wait()
            finally:
                _kill_session(process.pid)
    finally:
        os.close(reading)
        os.close(writing)
    if signals.received == signal.SIGINT:
        raise KeyboardInterrupt
    if signals.received:
        raise SystemExit(128 + signals.received)
    return status


def _kill_session(leader: int) -> None:
    """Kill what is left of a process and its children; they share a process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


class _SignalForwarder:
    """Signal handlers that pass signals on to a process; those that come before it is started, as soon as it is."""

    def __init__(self) -> None:
        self.received = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _SignalForwarder:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._forward) for number in FORWARDED}
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def forward_to(self, process: subprocess.Popen[bytes]) -> None:
        """Pass signals on to a process, also one that was received before."""
        self._process = process
        if self.received:
            process.send_signal(self.received)

    def _forward(self, number: int, frame: Any) -> None:
        self.received = number
        if self._process is not None:
            self._process.send_signal(number)

    def _suspend(self, number: int, frame: Any) -> None:
        """Stop together with the process (Ctrl-Z), and go on together."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGSTOP)
        # This call returns when this process goes on.
        os.kill(os.getpid(), signal.SIGSTOP)
        os.killpg(self._process.pid, signal.SIGCONT)


def end_with_parent() -> None:
    """End this command when the process that started it by :func:`run_command` is gone, even if that was killed.

    As after SIGTERM, a training saves a checkpoint first. The command and all its processes are killed if it has not
    ended within two minutes. Has no effect in a command that was started otherwise.
    """
    # Not inherited by processes that this one starts, which have no such pipe.
    pipe = os.environ.pop(_PARENT, "")
    if pipe.isdigit():
        threading.Thread(target=_end_after, args=(int(pipe),), name="parent", daemon=True).start()


def _end_after(pipe: int) -> None:
    # Nothing is ever written: reading returns when the last copy of the other end is closed.
    with suppress(OSError):
        os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SAVING_SEC)
    _kill_session(os.getpid())


@contextmanager
def exit_on_termination() -> Iterator[None]:
    """Raise SystemExit on SIGTERM within the block, so that temporary files and locks are removed.

    Only in the main thread, and only if the signal has its default effect; a second SIGTERM ends the process at once.
    """
    is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not is_default:
        yield
        return

    def exit_once(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, exit_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def safe_import_path() -> Iterator[None]:
    """Keep the working folder off the import path of workers of multiprocessing that are started in the block.

    They import modules before they take over the path of this process. Takes effect from Python 3.11.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        # Not for scripts, which need the modules beside them.
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def begin_worker() -> None:
    """Begin a worker of multiprocessing: it leaves Ctrl-C to the main process, and exits when that is gone."""
    # Ctrl-C reaches every process of the terminal; the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, name="parent", daemon=True).start()


def _exit_after_parent() -> None:
    """Exit when the parent is gone; a worker would otherwise hang, or keep writing files beside a new run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
