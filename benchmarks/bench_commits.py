"""A training step of the digits at an earlier commit against these files, in turns; and what methods cost.

Run: ``python benchmarks/bench_commits.py --commit HEAD~10``. Each side is a process of its own, with its own copy of
the library; both take steps in turns, so that a busy moment affects both. The time is that of the processor. Without
methods the weights after all steps must be equal to the bit, or the row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _timing import Report, add_output_options

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("_commit_worker.py")
METHODS: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon"},
    "dispersive": {"loss_terms": {"dispersive": {}}},
    "internal_guidance": {"loss_terms": {"internal_guidance": {}}},
}


class Side:
    """A process that takes training steps when it is told to.

    Args:
        library: Folder with the package.
        settings: Settings of the module.
    """

    def __init__(self, library: Path, settings: dict[str, Any]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def step(self, num: int) -> float:
        """Take steps; return the milliseconds of each."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{num}\n")
        self._process.stdin.flush()
        return float(self._read())

    def finish(self) -> str:
        """End the process; return the checksum of its weights."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        digest = self._read()
        self._process.wait()
        return digest

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            sys.exit("a side ended with an error, see above")
        return line


def compare(sides: list[Side], *, turns: int, steps: int) -> list[float]:
    """Time sides in turns after a warm-up; return the median milliseconds of a step of each."""
    taken: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side.step(steps)
    for _ in range(turns):
        for side, times in zip(sides, taken, strict=True):
            times.append(side.step(steps))
    return [statistics.median(times) for times in taken]


def files_of(commit: str, folder: Path) -> Path:
    """Write the package of a commit into a folder and return it."""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "jitflow"], stdout=subprocess.PIPE, check=True)
    path = folder / "package.tar"
    path.write_bytes(packed.stdout)
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", required=True, help="commit to compare with")
    parser.add_argument("--turns", type=int, default=25, help="turns of each side")
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn")
    parser.add_argument("--methods", action="store_true", help="also time methods against a training without them")
    add_output_options(parser)
    args = parser.parse_args()
    report = Report(device="cpu", out=args.out)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [Side(ROOT, {}), Side(files_of(args.commit, folder), {})]
        times = compare(sides, turns=args.turns, steps=args.steps)
        equal = len({side.finish() for side in sides}) == 1
        name = f"training step, digits, 64 images, now / at {args.commit}"
        report.add(name, *times, "ms", bit_equal=equal, clock="processor")
    for method, settings in METHODS.items() if args.methods else ():
        sides = [Side(ROOT, settings), Side(ROOT, {})]
        times = compare(sides, turns=args.turns, steps=args.steps)
        for side in sides:
            side.finish()
        report.add(f"training step, digits, 64 images, {method} / none", *times, "ms", clock="processor")


if __name__ == "__main__":
    main()
