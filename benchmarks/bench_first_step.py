"""Seconds from the start of a program to the end of its first training step, with a cold and a warm compile cache.

Run: ``python benchmarks/bench_first_step.py``. Both are new processes; the first fills the
folder that the second uses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _timing import Report, add_output_options, add_row_options, autocast_on, prepare
from _training import Side, our_training_step, training_batch
from _variants import BASE, BASE_ON_CPU, OURS_ON_CUDA, TINY, VARIANTS, Case, build_ours, label_of

_DONE = "first step after"


def run_once(case: Case, variant: str, device: str) -> None:
    """Run one training step in this process and say how long it took."""
    module = build_ours(case, variant, device)
    batch = training_batch(case, device)
    side = Side(module, lambda m: our_training_step(m, *batch, autocast_on(device), variant), device)
    print(f"{_DONE} {side.entries['first_step_sec']}", flush=True)


def time_process(command: Sequence[str]) -> tuple[float, float]:
    """Start a process that runs one step.

    Args:
        command: This script with ``--once``.

    Returns:
        Seconds until it said that the step is done, and the seconds of the step alone.

    Raises:
        RuntimeError: If it ended without saying so.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_DONE):
                return time.perf_counter() - started, float(line.removeprefix(_DONE))
    raise RuntimeError(f"the process of the first step ended with status {process.returncode}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_options(parser)
    parser.add_argument("--once", action="store_true", help="run one step in this process, with --compile_cache")
    add_row_options(parser, list(VARIANTS))
    args = parser.parse_args(argv)
    prepare(args)
    case = TINY if args.tiny else BASE if args.device.startswith("cuda") else BASE_ON_CPU
    variant = args.row[0] if args.row else OURS_ON_CUDA
    if args.once:
        run_once(case, variant, args.device)
        return
    report = Report(device=args.device, out=args.out)
    with tempfile.TemporaryDirectory(prefix="jitflow-compile-cache-") as folder:
        command = [sys.executable, str(Path(__file__)), "--once", "--device", args.device, "--row", variant]
        command += ["--compile_cache", folder, *(["--tiny"] if args.tiny else [])]
        for cache in ("cold", "warm"):
            total, step = time_process(command)
            name = f"first step after start, {case.name}, {label_of(variant)}, {cache} compile cache"
            report.add(name, total, None, "s", step_alone_sec=step)


if __name__ == "__main__":
    main()
