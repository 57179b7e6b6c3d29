"""Everything that one visit to a GPU shall measure, within a budget of seconds, in order of worth.

Run: ``python benchmarks/gpu_visit.py --budget 480 --out DIR --reference <checkout of the release>``. Every part is a
process of its own with a share of the budget; one that takes longer is killed, and the next one starts. Compiled
kernels are shared through a folder. Rows are in ``DIR/rows.json`` as soon as they are measured, the outcome of every
part in ``DIR/visit.json``, its output in ``DIR/<part>.log``. Needs no command line of this library; a dry run on a CPU:
``--device cpu --tiny``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# With less left, a part would end before it has imported torch and built a network.
_LEAST_SECONDS = 20.0
_NOT_AVAILABLE = " not available: "
_TAIL = 8


@dataclass(frozen=True)
class Part:
    """A part of the visit: a command of one of the benchmarks.

    Attributes:
        name: Name of the part.
        command: Script and its arguments.
        share: Share of the whole budget that it may take at most.
        needs_reference: Whether it needs a checkout of the release.
        instead_of: Part that this one stands in for if that one was cut off or failed; else it is not run.
    """

    name: str
    command: tuple[str, ...]
    share: float
    needs_reference: bool = False
    instead_of: str | None = None


PARTS = (
    Part("parity", ("bench_parity.py",), 0.3),
    Part("train", ("bench_train.py", "--row", "base", "--repeats", "5"), 0.2),
    Part("train-release", ("bench_train.py", "--row", "base", "--repeats", "5"), 0.25, needs_reference=True),
    Part(
        "train-release-eager",
        ("bench_train.py", "--row", "base", "--repeats", "3", "--release_eager"),
        0.15,
        needs_reference=True,
        instead_of="train-release",
    ),
    Part("sample", ("bench_sample.py", "--row", "compiled", "--repeats", "3"), 0.2),
    Part("sample-release", ("bench_sample.py", "--row", "compiled", "--repeats", "2"), 0.25, needs_reference=True),
    Part("stream", ("bench_train.py", "--row", "base-stream", "--repeats", "5"), 0.25),
    Part("float8-large", ("bench_train.py", "--row", "large-float8", "--repeats", "4"), 0.3),
    Part("float8-huge", ("bench_train.py", "--row", "huge-float8", "--repeats", "4"), 0.3),
    Part("memory", ("bench_memory.py", "--row", "base", "--row", "large"), 0.15),
    Part("demo", ("bench_demo.py",), 0.15),
    Part("profile", ("bench_profile.py",), 0.2),
    Part("first-step", ("bench_first_step.py",), 0.4),
)


@dataclass
class Outcome:
    """What became of a part.

    Attributes:
        name: The part.
        status: ``done``, ``cut off``, ``failed`` or ``not run``.
        seconds: Its duration.
        notes: Why it was not run, what it lacked, or the last lines of its output.
    """

    name: str
    status: str
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Visit:
    """A visit: runs parts one after another until the budget is used up.

    Args:
        budget: Seconds of the whole visit.
        out: Folder of the results.
        common: Arguments of every part.
        reference: Checkout of the release, if there is one.
        environment: Environment variables of every part.
    """

    def __init__(
        self, budget: float, out: Path, common: Sequence[str], reference: Path | None, environment: Mapping[str, str]
    ) -> None:
        self._budget, self._out, self._common = budget, out, common
        self._reference, self._environment = reference, environment
        self._started = time.monotonic()
        self.outcomes: list[Outcome] = []

    def run(self, parts: Sequence[Part]) -> None:
        """Run the parts, and write the outcome of each as soon as it is known."""
        for part in parts:
            outcome = self._outcome(part)
            self.outcomes.append(outcome)
            print(f"PART {part.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
            found = json.dumps([asdict(o) for o in self.outcomes], indent=1)
            (self._out / "visit.json").write_text(found, encoding="utf-8")

    def _outcome(self, part: Part) -> Outcome:
        left = self._budget - (time.monotonic() - self._started)
        first = next((o for o in self.outcomes if o.name == part.instead_of), None)
        if part.needs_reference and self._reference is None:
            return Outcome(part.name, "not run", notes=["no --reference"])
        if part.instead_of is not None and (first is None or first.status not in ("cut off", "failed")):
            return Outcome(part.name, "not run", notes=[f"only if {part.instead_of} does not finish"])
        if left < _LEAST_SECONDS:
            return Outcome(part.name, "not run", notes=[f"{max(0.0, left):.0f} s of the budget were left"])
        limit = min(left, part.share * self._budget)
        command = [sys.executable, str(HERE / part.command[0]), *part.command[1:], *self._common]
        if part.needs_reference:
            command += ["--reference", str(self._reference)]
        print(f"\nPART {part.name}: at most {limit:.0f} s", flush=True)
        return run_part(part.name, command, limit, self._out / f"{part.name}.log", self._environment)


def run_part(name: str, command: Sequence[str], limit: float, log: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a command, show its output as it comes, and kill it with all its processes after a time.

    Args:
        name: The part's name.
        command: Program and arguments.
        limit: Seconds.
        log: File of its output.
        environment: Its environment variables.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(environment),
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=_TAIL)
    missing: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                print(line, end="", flush=True)
                file.write(line)
                file.flush()
                tail.append(line.rstrip())
                if _NOT_AVAILABLE in line:
                    missing.append(line.strip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    status = "cut off"
    try:
        status = "done" if process.wait(limit) == 0 else "failed"
    except subprocess.TimeoutExpired:
        pass
    finally:
        # The compiler's workers too, also when the visit itself is interrupted.
        _kill_group(process)
        # A worker in a session of its own may keep the pipe open.
        reader.join(5)
    return Outcome(name, status, round(time.monotonic() - started, 1), missing if status == "done" else list(tail))


def _kill_group(process: subprocess.Popen[str]) -> None:
    # All of its processes may have ended.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table_of(rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome]) -> str:
    """Format rows and outcomes as the visit's last lines."""
    lines = [f"{'ours':>9} {'other':>9} unit     ratio  images/s   MFU    GiB  row"]
    for row in rows:
        ours, other = (
            f"{v:9.4g}" if isinstance(v, int | float) else f"{'':9}" for v in (row["ours"], row["reference"])
        )
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        rate, mfu = row.get("images_per_sec", ""), row.get("mfu", "")
        gib = f"{row['peak_mib'] / 1024:.1f}" if "peak_mib" in row else ""
        lines.append(f"{ours} {other} {row['unit']:<8} {ratio:>5} {rate:>9} {mfu:>5} {gib:>6}  {row['name']}")
    if rows:
        lines.append(f"on {rows[-1]['device']}, torch {rows[-1]['torch']}, commit {rows[-1]['commit']}")
    lines += [f"{o.name:<22} {o.status:<8} {o.seconds:6.0f} s" for o in outcomes]
    for outcome in outcomes:
        if outcome.notes:
            lines += [f"{outcome.name}, {outcome.status}:", *(f"    {note}" for note in outcome.notes)]
    return "\n".join(lines)


def choose(only: str | None, skip: str | None) -> list[Part]:
    """Return the parts to run, in order of worth.

    Args:
        only: Names separated by commas; None for all.
        skip: Names separated by commas that are not run.
    """
    names = [part.name for part in PARTS]
    for name in [n for given in (only, skip) if given for n in given.split(",")]:
        if name not in names:
            sys.exit(f"there is no part {name!r}; the parts are {', '.join(names)}")
    chosen = names if only is None else only.split(",")
    skipped = [] if skip is None else skip.split(",")
    return [part for part in PARTS if part.name in chosen and part.name not in skipped]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the visit and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=480, help="seconds of the whole visit; 480")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--reference", type=Path, help="a checkout of the JiT release, for the parts that compare")
    parser.add_argument("--only", help="these parts only, separated by commas")
    parser.add_argument("--skip", help="not these parts, separated by commas")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a dry run: one tiny network, nothing compiled")
    parser.add_argument("--compile_cache", type=Path, help="folder of compiled kernels; a temporary one by default")
    args = parser.parse_args(argv)
    parts = choose(args.only, args.skip)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = args.out / "rows.json"
    with tempfile.TemporaryDirectory(prefix="jitflow-compile-cache-") as temporary:
        common = ["--device", args.device, "--out", str(rows), "--compile_cache", str(args.compile_cache or temporary)]
        common += ["--tiny"] if args.tiny else []
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        visit = Visit(args.budget, args.out, common, args.reference, environment)
        try:
            visit.run(parts)
        finally:
            found = json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else []
            print(f"\n{table_of(found, visit.outcomes)}\nrows are in {rows}", flush=True)


if __name__ == "__main__":
    # So that a visit that is ended from outside ends its part, too, and prints its table.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
