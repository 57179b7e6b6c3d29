"""A visit to a GPU: its parts prepare side by side, and are timed one after another, within a budget of seconds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from _part import Outcome, Part, Running

# With less left, a part would end before it has imported torch and built a network.
LEAST_SECONDS = 20.0
_POLL_SEC = 0.05


@dataclass(frozen=True)
class Limits:
    """Limits of a visit.

    Attributes:
        budget: Seconds of the whole visit.
        prepare: Seconds after which turns begin, even if some parts are not ready; these pause during each turn.
        turn: Seconds of a turn.
        together: Parts that run at a time.
    """

    budget: float
    prepare: float
    turn: float
    together: int


class Visit:
    """A visit: starts its parts in order of worth and gives those that are ready their turns, in the same order.

    No turn begins before every running part is ready or has ended, or the time to prepare is over. What others compile
    and warm up would lengthen a turn, so those that still prepare then are paused for as long as it takes, and have
    their turns later.

    Args:
        parts: The parts, in order of worth.
        limits: Its limits.
        out: Folder of the results.
        turns: Empty folder, in which the parts say that they are ready.
        arguments: Arguments of every part.
        reference: Checkout of the release, if there is one.
        environment: Environment variables of every part.

    Attributes:
        outcomes: Outcome of every part that has one, in order of worth.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        limits: Limits,
        *,
        out: Path,
        turns: Path,
        arguments: Sequence[str],
        reference: Path | None,
        environment: Mapping[str, str],
    ) -> None:
        self._parts, self._limits, self._out, self._turns = parts, limits, out, turns
        self._arguments, self._reference = arguments, reference
        # A compilation starts as many workers as there are cores, unless it is told not to.
        workers = max(2, (os.cpu_count() or 1) // limits.together)
        self._environment = {"TORCHINDUCTOR_COMPILE_THREADS": str(workers), **environment}
        self._began = time.monotonic()
        self._waiting = list(parts)
        self._running: list[Running] = []
        self._prepared = False
        self._said_ready: set[str] = set()
        self.outcomes: list[Outcome] = []

    def run(self) -> None:
        """Run the parts until all have an outcome, and write the outcome of each as soon as it is known."""
        try:
            while self._waiting or self._running:
                self._finish_parts()
                self._start_parts()
                self._give_turn()
                time.sleep(_POLL_SEC)
        finally:
            # Only where the visit itself is interrupted.
            for running in self._running:
                self._add(running.finish("cut off"))
            self._running = []

    @property
    def _left(self) -> float:
        return self._limits.budget - (time.monotonic() - self._began)

    def _finish_parts(self) -> None:
        for running in list(self._running):
            over = running.turn_seconds > self._limits.turn and not running.part.alone
            first = self._status(running.part.instead_of)
            if running.ended:
                outcome = running.finish()
            elif over or self._left <= 0:
                outcome = running.finish("cut off")
            elif first in ("done", "not run"):
                outcome = running.finish("not run", _only_if_cut_off(running.part))
            else:
                continue
            self._running.remove(running)
            if running.turn_started is not None:
                for other in self._running:
                    other.resume()
            self._add(outcome)

    def _start_parts(self) -> None:
        if any(running.turn_started is not None for running in self._running):
            return
        for part in list(self._waiting):
            why_not = self._why_not(part)
            if why_not is not None:
                self._waiting.remove(part)
                self._add(Outcome(part.name, "not run", notes=[why_not]))
                continue
            # In order: a part of less worth does not overtake another one.
            if len(self._running) >= (1 if part.alone else self._limits.together):
                return
            self._waiting.remove(part)
            reference = ["--reference", str(self._reference)] if part.needs_reference else []
            print(f"PART {part.name}: started, {self._left:.0f} s left", flush=True)
            log, turn = self._out / f"{part.name}.log", None if part.alone else self._turns / part.name
            arguments = [*self._arguments, *reference]
            self._running.append(Running(part, arguments, log, self._environment, turn))

    def _why_not(self, part: Part) -> str | None:
        names = [p.name for p in self._parts if self._reference is not None or not p.needs_reference]
        if part.needs_reference and self._reference is None:
            return "no --reference"
        if part.unless in names:
            return f"{part.unless} measures it, too"
        if part.instead_of is not None and (
            part.instead_of not in names or self._status(part.instead_of) in ("done", "not run")
        ):
            return _only_if_cut_off(part)
        if self._left < LEAST_SECONDS:
            return f"{max(0.0, self._left):.0f} s of the budget were left"
        return None

    def _give_turn(self) -> None:
        for running in self._running:
            if running.ready and running.part.name not in self._said_ready:
                self._said_ready.add(running.part.name)
                print(f"PART {running.part.name}: ready after {running.seconds:.0f} s", flush=True)
        is_late = self._limits.budget - self._left > self._limits.prepare
        self._prepared = self._prepared or is_late or all(running.ready for running in self._running)
        if not self._prepared or any(running.turn_started is not None for running in self._running):
            return
        order = sorted(self._running, key=lambda running: self._parts.index(running.part))
        for running in order:
            stands_in = running.part.instead_of is not None
            if running.ready and (not stands_in or self._status(running.part.instead_of) in ("cut off", "failed")):
                print(f"PART {running.part.name}: at most {min(self._limits.turn, self._left):.0f} s", flush=True)
                for other in order:
                    if other is not running and not other.ready:
                        other.pause()
                running.go()
                return

    def _status(self, name: str | None) -> str | None:
        return next((o.status for o in self.outcomes if o.name == name), None)

    def _add(self, outcome: Outcome) -> None:
        print(
            f"PART {outcome.name}: {outcome.status}, {outcome.seconds:.0f} s, its turn {outcome.turn_seconds:.0f} s",
            flush=True,
        )
        names = [part.name for part in self._parts]
        self.outcomes = sorted([*self.outcomes, outcome], key=lambda o: names.index(o.name))
        found = json.dumps([asdict(o) for o in self.outcomes], indent=1)
        (self._out / "visit.json").write_text(found, encoding="utf-8")


def _only_if_cut_off(part: Part) -> str:
    return f"only if {part.instead_of} does not finish"
