"""Shared by all benchmarks: options, interleaved timing, result rows, and the machine's file of results."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from _turns import wait_for_turn, warm_up

from jitflow.host import keep_freed_memory
from jitflow.io.files import write_json
from jitflow.run.folder import describe_environment

RESULTS = Path(__file__).parent / "results"


# Of torch's compiler and of Triton; a folder shared by several processes is filled by the first.
_CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def interleaved(
    functions: Sequence[Callable[[], object]],
    repeats: int,
    *,
    device: str = "cpu",
    clock: str = "wall",
    warm_ups: Sequence[Callable[[], object]] | None = None,
) -> list[float]:
    """Time functions in turns, so that a busy moment affects all of them; return median milliseconds.

    In a visit to a GPU the warm-up runs beside other benchmarks, and the timing waits for this one's turn.

    Args:
        functions: Functions to time, such as a group of training steps.
        repeats: Number of timed turns.
        device: Their device; an accelerator is synchronised around every call.
        clock: ``"wall"``, or ``"processor"`` for the CPU time of this process, all threads together, which other work
            on the machine hardly changes.
        warm_ups: Shorter functions that are called once before, as warm-up; None takes the functions themselves.

    Returns:
        One median for each function.
    """
    now = CLOCKS[clock]
    before = functions if warm_ups is None else warm_ups
    for function in before:
        warm_up(function)
    if wait_for_turn():
        # The memory that torch keeps between calls was given back while waiting.
        for function in before:
            warm_up(function)
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, taken, strict=True):
            synchronise(device)
            start = now()
            function()
            synchronise(device)
            times.append(1000 * (now() - start))
    return [statistics.median(times) for times in taken]


def synchronise(device: str) -> None:
    """Wait until an accelerator has finished all queued work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine_name(device: str = "cpu") -> str:
    """Return the name of this machine's file of results: processor type and threads, or the accelerator."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name().lower().replace(" ", "-")
    return f"{platform.machine()}-{torch.get_num_threads()}threads".lower()


def autocast_on(device: str) -> AbstractContextManager[Any]:
    """Return the context that a network runs in: bf16 on CUDA, float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.startswith("cuda") else nullcontext()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Run matrix products and convolutions in true float32, without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def add_common_options(parser: argparse.ArgumentParser, *, repeats: int, rows: Sequence[str] = ()) -> None:
    """Add the options of all benchmarks: ``--repeats``, ``--reference``, ``--device``, ``--clock``, ``--out``.

    Args:
        parser: The parser.
        repeats: Default of ``--repeats``.
        rows: Rows that can be measured alone; they add ``--row``, ``--compile_cache`` and ``--tiny``.
    """
    parser.add_argument("--repeats", type=int, default=repeats, help=f"turns that count; {repeats}")
    parser.add_argument(
        "--reference", type=Path, default=None, help="a checkout of the JiT release (or a fork), timed in turns with us"
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: time given to this process, for a busy machine"
    )
    add_output_options(parser)
    if rows:
        add_row_options(parser, rows)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--device`` and ``--out``."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/<machine>.json")


def add_row_options(parser: argparse.ArgumentParser, rows: Sequence[str]) -> None:
    """Add the options of a benchmark whose rows can be measured alone."""
    parser.add_argument("--row", action="append", choices=rows, help="measure only this row; may be repeated")
    parser.add_argument(
        "--compile_cache", type=Path, default=None, help="folder of compiled kernels, shared between processes"
    )
    parser.add_argument("--tiny", action="store_true", help="a dry run: one tiny network, nothing compiled")


def prepare(args: argparse.Namespace) -> None:
    """Set up the process as ``jitflow`` does (the release benefits too), and the cache of compiled kernels."""
    keep_freed_memory()
    if args.compile_cache is not None:
        use_compile_cache(args.compile_cache)
    if args.tiny:
        torch.compiler.set_stance("force_eager")


def use_compile_cache(folder: Path) -> None:
    """Keep compiled kernels in a folder, also those of processes started from here."""
    for variable, name in _CACHES.items():
        os.environ[variable] = str(folder.resolve() / name)


def commit_of(environment: Mapping[str, Any]) -> str:
    """Return the commit that rows name.

    Args:
        environment: From :func:`describe_environment`. A copy of the files has no commit, or that of another state; the
            environment variable ``JITFLOW_COMMIT`` names it there.
    """
    return str(os.environ.get("JITFLOW_COMMIT") or environment["commit"] or "unknown")


def command_of(words: Sequence[str]) -> str:
    """Return a command line without what differs between machines: folders, and where the results went.

    Args:
        words: The script and its arguments.
    """
    shown = ["python", f"benchmarks/{Path(words[0]).name}"]
    for before, word in itertools.pairwise(words):
        if word in ("--out", "--compile_cache") or before in ("--out", "--compile_cache"):
            continue
        shown.append(f"<{Path(word).name}>" if before == "--reference" else word)
    return shlex.join(shown).replace("'", "")


class Report:
    """Rows of a run, printed and merged by name into the machine's file of results.

    Args:
        device: Device of the benchmark.
        out: The file; None takes ``results/<machine>.json``.
    """

    def __init__(self, *, device: str, out: Path | None) -> None:
        self.out = out or RESULTS / f"{machine_name(device)}.json"
        environment = describe_environment()
        self._common = {
            "command": command_of(sys.argv),
            "commit": commit_of(environment),
            "torch": torch.__version__,
            "device": environment["device"] if device.startswith("cuda") else platform.machine(),
            "threads": torch.get_num_threads(),
        }
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, ours: float | str, reference: float | None, unit: str, **more: Any) -> None:
        """Print a row and write it to the file at once; a later row of the same name replaces it.

        Args:
            name: The quantity measured.
            ours: This library's value; lower is better.
            reference: The reference value, in the same unit; None if there is none.
            unit: Unit of both.
            more: Additional entries of the row, plain values.
        """
        ratio = round(reference / ours, 2) if reference is not None and not isinstance(ours, str) and ours else None
        shown = [number if isinstance(number, str) else rounded(number) for number in (ours, reference)]
        row = {"name": name, "ours": shown[0], "reference": shown[1], "ratio": ratio, "unit": unit}
        self.rows = [r for r in self.rows if r["name"] != name] + [{**row, **more, **self._common}]
        against = "" if ratio is None else f"  {shown[1]:>10} {unit}  {ratio:5.2f}x"
        extra = "  ".join(f"{key} {value}" for key, value in more.items() if not isinstance(value, (list, dict)))
        print(f"{name:<78} {shown[0]:>10} {unit}{against}  {extra}", flush=True)
        self._merge()

    def _merge(self) -> None:
        """Merge the rows into the machine's file: rows of the same name are replaced, others kept."""
        before = json.loads(self.out.read_text(encoding="utf-8")) if self.out.exists() else []
        names = {row["name"] for row in self.rows}
        write_json(self.out, [row for row in before if row["name"] not in names] + self.rows)


def rounded(number: float | None) -> float | None:
    """Round to four significant digits, more than a clock's precision."""
    return None if number is None else float(f"{number:.4g}")
