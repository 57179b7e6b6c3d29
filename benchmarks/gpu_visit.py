"""Everything that one visit to a GPU shall measure, within a budget of seconds, in order of worth.

Run: ``python benchmarks/gpu_visit.py --budget 480 --out DIR --reference <checkout of the release>``. Every part is a
process of its own. The parts compile and warm up at the same time, and are then timed in turns, one at a time. Compiled
kernels are shared through a folder. Rows are in ``DIR/rows.json`` as soon as they are measured, the outcome of every
part in ``DIR/visit.json``, its output in ``DIR/<part>.log``. Needs no command line of this library; a dry run on a CPU:
``--device cpu --tiny --together 2``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _part import Outcome, Part
from _visit import Limits, Visit

HERE = Path(__file__).resolve().parent
_PREPARE_SHARE = 0.45

PARTS = (
    Part("train-release", ("bench_train.py", "--row", "base", "--repeats", "5"), needs_reference=True),
    Part(
        "train-release-eager",
        ("bench_train.py", "--row", "base", "--repeats", "3", "--release_eager"),
        needs_reference=True,
        instead_of="train-release",
    ),
    Part("train", ("bench_train.py", "--row", "base", "--repeats", "5"), unless="train-release"),
    Part("stream", ("bench_train.py", "--row", "base-stream", "--repeats", "5")),
    Part("sample-release", ("bench_sample.py", "--row", "plain", "--repeats", "2"), needs_reference=True),
    Part("sample", ("bench_sample.py", "--row", "plain", "--repeats", "3"), unless="sample-release"),
    Part("float8-large", ("bench_train.py", "--row", "large-float8", "--repeats", "4", "--steps", "5")),
    Part("float8-huge", ("bench_train.py", "--row", "huge-float8", "--repeats", "4", "--steps", "5")),
    Part("plain", ("bench_train.py", "--row", "base-plain", "--repeats", "5")),
    Part("sample-graphs", ("bench_sample.py", "--row", "graphs", "--repeats", "3")),
    Part("demo", ("bench_demo.py", "--row", "gpu", "--row", "cpu")),
    Part("memory", ("bench_memory.py", "--row", "base", "--row", "large")),
    Part("parity", ("bench_parity.py",)),
    Part("profile", ("bench_profile.py",)),
    Part("sample-compiled", ("bench_sample.py", "--row", "compiled", "--repeats", "3")),
    Part("first-step", ("bench_first_step.py",), alone=True),
)


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
    lines += [f"{o.name:<22} {o.status:<8} {o.seconds:6.0f} s, its turn {o.turn_seconds:4.0f} s" for o in outcomes]
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
    parser.add_argument("--together", type=int, default=8, help="parts that run at a time; 8")
    parser.add_argument("--prepare", type=float, help="seconds after which turns begin; 0.45 of the budget")
    parser.add_argument("--turn", type=float, default=30, help="seconds of a turn; 30")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--reference", type=Path, help="a checkout of the JiT release, for the parts that compare")
    parser.add_argument("--only", help="these parts only, separated by commas")
    parser.add_argument("--skip", help="not these parts, separated by commas")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a dry run: one tiny network, nothing compiled")
    parser.add_argument("--compile_cache", type=Path, help="folder of compiled kernels; a temporary one by default")
    args = parser.parse_args(argv)
    if args.together < 1:
        parser.error(f"--together is {args.together}; at least one part runs at a time")
    parts = choose(args.only, args.skip)
    prepare = _PREPARE_SHARE * args.budget if args.prepare is None else args.prepare
    limits = Limits(args.budget, prepare, args.turn, args.together)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = args.out / "rows.json"
    with (
        tempfile.TemporaryDirectory(prefix="jitflow-compile-cache-") as temporary,
        tempfile.TemporaryDirectory(prefix="jitflow-turns-") as turns,
    ):
        common = ["--device", args.device, "--out", str(rows), "--compile_cache", str(args.compile_cache or temporary)]
        common += ["--tiny"] if args.tiny else []
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
        visit = Visit(
            parts,
            limits,
            out=args.out,
            turns=Path(turns),
            arguments=common,
            reference=args.reference,
            environment={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        try:
            visit.run()
        finally:
            found = json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else []
            print(f"\n{table_of(found, visit.outcomes)}\nrows are in {rows}", flush=True)


if __name__ == "__main__":
    # So that a visit that is ended from outside ends its part, too, and prints its table.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
