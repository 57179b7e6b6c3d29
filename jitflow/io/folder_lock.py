"""Lock the folder of a run, an evaluation or a data set, so that no two processes write into it at once.

The lock is a file that names its holder. On the machine of the holder it counts as long as that process lives; seen
from another machine, which may share the folder through a network file system, as long as its modification time, the
heartbeat, is recent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jitflow.errors import ConfigError
from jitflow.io.files import clear_leftovers, temporary_beside, user_path, write_json
from jitflow.io.json_text import parse_json

log = logging.getLogger(__name__)

LOCK_NAME = ".in_use.json"
HEARTBEAT_SEC = 10.0
STALE_SEC = 120.0
"""Age of a heartbeat of another machine from which its process counts as gone; network file systems cache for 60 s."""
_READABLE_BYTES = 10_000
# How often processes that start at the same moment wait for each other.
_ATTEMPTS, _WAIT_SEC = 50, 0.1


@dataclass(frozen=True)
class Holder:
    """Process that holds the lock of a folder.

    Attributes:
        pid: Its number.
        host: Name of its machine.
        started: When it took the lock, in UTC, ISO 8601.
        machine: Names machine, boot and container, within which process numbers are unique.
        process_start: When the process started, in clock ticks since boot, which tells it from a later one of the same
            number; 0 if unknown.
        token: Random name of this lock.
    """

    pid: int
    host: str
    started: str
    machine: str
    process_start: int
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def this_process(cls) -> Holder:
        """Describe this process."""
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(os.getpid(), platform.node(), started, _machine(), _process_start(os.getpid()) or 0)

    @property
    def name(self) -> str:
        """Number of the process, and its machine if that is another one."""
        return f"process {self.pid}" + ("" if self.host == platform.node() else f" on {self.host}")

    def __str__(self) -> str:
        return f"{self.name}, since {self.started.replace('T', ' ').removesuffix('+00:00')} UTC"

    @property
    def is_of_this_machine(self) -> bool:
        """Whether the process can be looked up here."""
        return self.machine == _machine() and sys.platform != "win32"

    def is_alive(self, heartbeat: float, now: float) -> bool:
        """Whether the process still runs.

        Args:
            heartbeat: Modification time of the lock, in seconds; decides for processes of other machines.
            now: The present time by the same clock.
        """
        if not self.is_of_this_machine:
            return now - heartbeat < STALE_SEC
        start = _process_start(self.pid)
        return start is not None and (start == self.process_start or 0 in (start, self.process_start))


class FolderLock:
    """Lock of a folder that this process holds; :func:`locked` makes it.

    Args:
        path: File of the lock.
        holder: This process.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path = path
        self._holder = holder
        self._released = threading.Event()
        self._winner: Holder | None = None

    @property
    def is_lost(self) -> bool:
        """Whether another machine has taken the lock over; known at the next heartbeat."""
        return self._winner is not None

    def check(self) -> None:
        """Raise ConfigError if another machine has taken the lock over, as after minutes in which this one slept."""
        if self._winner is not None:
            raise ConfigError(
                f"{self._path.parent} was taken over by {self._winner} while this process gave no sign of life; "
                "nothing more is written"
            )

    def keep_fresh(self) -> None:
        """Renew the heartbeat until the lock is released or lost; runs in a thread."""
        while not self._released.wait(HEARTBEAT_SEC):
            holder = _read(self._path)
            if holder is not None and holder.token != self._holder.token:
                self._winner = holder
                return
            # A heartbeat may be missed while a network file system does not answer.
            with suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Remove the lock, unless it is another's."""
        self._released.set()
        holder = _read(self._path)
        # A forked process shares the object, but not the lock.
        if holder is not None and holder.token == self._holder.token and holder.pid == os.getpid():
            with suppress(OSError):
                self._path.unlink()


@contextmanager
def locked(folder: str | Path) -> Iterator[FolderLock]:
    """Lock a folder in the block; a lock whose process is gone is taken over, which is logged.

    Temporary files that a process which was killed has left there, or in a folder there, are removed.

    Args:
        folder: The folder, created if missing. One that cannot be written into is not locked: nothing can be changed
            there, and the command says so itself if it has to.

    Yields:
        The lock.

    Raises:
        ConfigError: If another process holds the lock; names it.
    """
    path = user_path(folder) / LOCK_NAME
    holder = Holder.this_process()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path.parent):
            _take(path, holder)
    except OSError as error:
        log.debug("%s is not locked: %s", path.parent, error)
    lock = FolderLock(path, holder)
    threading.Thread(target=lock.keep_fresh, name="heartbeat", daemon=True).start()
    try:
        yield lock
    finally:
        lock.release()


def live_holder(folder: str | Path) -> Holder | None:
    """Return the process that is using a folder; None if there is none.

    Args:
        folder: The folder, which need not exist.
    """
    path = Path(folder) / LOCK_NAME
    holder = _read(path)
    return holder if holder is not None and holder.is_alive(_heartbeat(path), time.time()) else None


def _take(path: Path, holder: Holder) -> None:
    """Write the lock of this process, if no other one that lives has it."""
    # The clock of the file system, which may be another machine's.
    probe = temporary_beside(path)
    now = probe.stat().st_mtime
    probe.unlink()
    before = _read(path)
    if before is not None and before.is_alive(_heartbeat(path), now):
        wait = "" if before.is_of_this_machine else f", or {STALE_SEC:g} s after it has died"
        raise ConfigError(
            f"{path.parent} is in use by {before}; wait for its end{wait}, end it, or choose another folder"
        )
    write_json(path, asdict(holder))
    if before is not None:
        log.info("%s was in use by %s, which is gone; taken over", path.parent, before)
        for folder in (path.parent, *(child for child in path.parent.iterdir() if child.is_dir())):
            clear_leftovers(folder)


def _read(path: Path) -> Holder | None:
    """Read the holder of a lock; None if there is no lock, or a damaged one, which nobody holds."""
    try:
        with path.open("rb") as file:
            content = parse_json(file.read(_READABLE_BYTES).decode())
        kinds = {name: content[name] for name in ("pid", "process_start")}
        if not all(isinstance(number, int) and 0 <= number < 2**63 for number in kinds.values()):
            return None
        texts = {name: content[name] for name in ("host", "started", "machine", "token")}
        return Holder(**kinds, **texts) if all(isinstance(text, str) for text in texts.values()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _heartbeat(path: Path) -> float:
    """Return the modification time of a lock; long ago if it has been removed meanwhile."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time look at a folder's lock and take it, where the file system supports locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with contextlib.ExitStack() as stack:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            for _ in range(_ATTEMPTS):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_WAIT_SEC)
        yield


def _machine() -> str:
    """Name the machine, its boot and its container, within which process numbers are unique."""
    parts: list[Any] = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(Path("/proc/self/ns/pid").readlink())
    return " ".join(map(str, parts))


def _process_start(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; 0 if unknown, None if it is gone."""
    try:
        # Behind the name, which may hold anything: state, and 18 fields later the start.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0
