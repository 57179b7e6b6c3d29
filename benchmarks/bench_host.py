"""Effect of the process settings in jitflow/host.py: how threads wait, and whether freed memory is kept.

Run: ``python benchmarks/bench_host.py``, and with ``--beside 1`` for a busy machine. The settings apply to a whole
    process, so
every turn of a side is a new process; the sides take turns, and a row has the medians of their medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from _timing import Report, add_common_options, interleaved

from jitflow.host import WAITING, keep_freed_memory

# Environments, and whether freed memory is kept. OWN is libgomp's default.
SLEEP, BRIEFLY, OWN = {"OMP_WAIT_POLICY": "PASSIVE"}, WAITING, {}
COMPARISONS = {
    "training step, JiT-N/4, 16 px, batch 64, threads wait briefly / sleep at once": (
        "train",
        (BRIEFLY, True),
        (SLEEP, True),
    ),
    "training step, JiT-N/4, 16 px, batch 64, threads wait briefly / libgomp's own": (
        "train",
        (BRIEFLY, True),
        (OWN, True),
    ),
    "guided sampling, JiT-N/4, 16 px, batch 64, Heun 10, freed memory kept / given back": (
        "sample",
        (BRIEFLY, True),
        (BRIEFLY, False),
    ),
}
BUSY = "while True: sum(range(10000))"
CHOSEN = ("OMP_WAIT_POLICY", *WAITING)


def milliseconds(work: str, kept: bool, repeats: int) -> float:
    """Measure the median time of a workload in this process."""
    import torch
    from _training import our_training_step, training_batch
    from _variants import build_ours
    from bench_sample import CASES, make, sampling_of

    from jitflow.apps.images.module import JiTLightningModule

    if kept:
        keep_freed_memory()
    case, steps = CASES["cpu"]
    labels = torch.arange(case.batch) % case.num_classes
    if work == "sample":
        function = sampling_of(make(JiTLightningModule, case, steps), labels)
    else:
        function = our_training_step(build_ours(case), *training_batch(case, "cpu"), nullcontext())
    return interleaved([function], repeats)[0]


def in_a_process(work: str, environment: dict[str, str], kept: bool, repeats: int) -> float:
    """Measure the median time of a workload in a new process."""
    base = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    words = [sys.executable, __file__, "--inside", work, "--repeats", str(repeats), *(["--kept"] if kept else [])]
    run = subprocess.run(words, env={**base, **environment}, capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout))


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run other processes that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, repeats=20)
    parser.add_argument("--turns", type=int, default=3, help="processes of each side; 3")
    parser.add_argument("--beside", type=int, default=0, help="other processes that compute all the time; 0")
    parser.add_argument("--inside", choices=("train", "sample"), default=None, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(milliseconds(args.inside, args.kept, args.repeats)))
        return
    report = Report(device="cpu", out=args.out)
    beside = f", beside {args.beside} busy" if args.beside else ""
    for name, (work, *sides) in COMPARISONS.items():
        taken: list[list[float]] = [[] for _ in sides]
        with busy_processes(args.beside):
            for _ in range(args.turns):
                for (environment, kept), times in zip(sides, taken, strict=True):
                    times.append(in_a_process(work, environment, kept, args.repeats))
        report.add(name + beside, *map(statistics.median, taken), "ms")
    print(f"rows are in {report.out}")


if __name__ == "__main__":
    main()
