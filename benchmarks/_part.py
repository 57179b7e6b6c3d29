"""A part of a visit to a GPU: its command, and the process that runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "JITFLOW_BENCHMARK_TURN"
"""Environment variable with the path of a part's turn, see :mod:`_turns`."""
_NOT_AVAILABLE = " not available: "
_TAIL = 8


@dataclass(frozen=True)
class Part:
    """A part of the visit: a command of one of the benchmarks.

    Attributes:
        name: Name of the part.
        command: Script and its arguments.
        needs_reference: Whether it needs a checkout of the release.
        instead_of: Part that this one stands in for: it prepares as the others do, and has a turn if that one failed
            or was cut off.
        unless: Part that measures the same and more: this one is not run if that one is.
        alone: Whether it starts when all others have ended, and takes no turn.
    """

    name: str
    command: tuple[str, ...]
    needs_reference: bool = False
    instead_of: str | None = None
    unless: str | None = None
    alone: bool = False


@dataclass
class Outcome:
    """What became of a part.

    Attributes:
        name: The part.
        status: ``done``, ``cut off``, ``failed`` or ``not run``.
        seconds: Its duration, with its preparation and the wait for its turn.
        turn_seconds: Duration of its turn.
        notes: Why it was not run, what it lacked, or the last lines of its output.
    """

    name: str
    status: str
    seconds: float = 0.0
    turn_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Running:
    """A part whose process has started; its output is shown as it comes, and kept in a file.

    Args:
        part: The part.
        arguments: Arguments after those of its command.
        log: File of its output.
        environment: Its environment variables.
        turn: Path of its turn, see :mod:`_turns`; None for a part that runs alone.
    """

    def __init__(
        self, part: Part, arguments: Sequence[str], log: Path, environment: Mapping[str, str], turn: Path | None
    ) -> None:
        self.part = part
        self._turn = turn
        self._started = time.monotonic()
        # When a part that runs alone has started, its turn has begun.
        self.turn_started = self._started if turn is None else None
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._missing: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / part.command[0]), *part.command[1:], *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environment, **({} if turn is None else {VARIABLE: str(turn)})},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    @property
    def ready(self) -> bool:
        """Whether it waits for its turn."""
        return self._turn is not None and self.turn_started is None and Path(f"{self._turn}.ready").exists()

    @property
    def ended(self) -> bool:
        """Whether its process has ended by itself."""
        return self._process.poll() is not None

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    @property
    def turn_seconds(self) -> float:
        """Seconds since the start of its turn; 0 before it."""
        return 0.0 if self.turn_started is None else time.monotonic() - self.turn_started

    def go(self) -> None:
        """Give it its turn."""
        self.turn_started = time.monotonic()
        Path(f"{self._turn}.go").touch()

    def pause(self) -> None:
        """Stop its processes until :meth:`resume`, so that they disturb no other part's turn."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its processes go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # All of its processes may have ended.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def finish(self, status: str | None = None, *notes: str) -> Outcome:
        """Kill what is left of it, the compiler's workers too, and return its outcome.

        Args:
            status: The outcome's; None for a process that has ended: ``done`` or ``failed``.
            notes: The outcome's; by default the last lines of the output, or what a part that is done lacked.
        """
        found = status or ("done" if self._process.poll() == 0 else "failed")
        seconds, turn_seconds = round(self.seconds, 1), round(self.turn_seconds, 1)
        self._signal(signal.SIGKILL)
        self._process.wait()
        # A worker in a session of its own may keep the pipe open.
        self._reader.join(5)
        shown = list(notes) or (self._missing if found == "done" else list(self._tail))
        return Outcome(self.part.name, found, seconds, turn_seconds, shown)

    def _read(self, log: Path) -> None:
        assert self._process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in self._process.stdout:
                # In one write, so that parts do not mix within a line.
                print(f"[{self.part.name}] {line.rstrip()}\n", end="", flush=True)
                file.write(line)
                file.flush()
                self._tail.append(line.rstrip())
                if _NOT_AVAILABLE in line:
                    self._missing.append(line.strip())
