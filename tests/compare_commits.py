"""Train, sample and evaluate with two commits, and compare what they give bit for bit.

    python tests/compare_commits.py A B              two commits, or "." for the files as they are
    python tests/compare_commits.py A --write FILE   keep losses and norms of weights of one commit
    python tests/compare_commits.py A --against FILE compare with kept ones, to 1e-5 relative

Images, text and micro-Doppler are each trained for 20 optimiser steps on both public paths: as the documents write it
(Python, or the scripts at the root) and by a recipe. Compared are the loss of every batch and validation, weights and
both averages by name in the last checkpoint, samples of fixed seeds, and the scores of the evaluation. Every command
line names every setting that has a number in it, so that a changed default is no difference, and goes through what is
documented only, so that modules may move. Both commits run side by side, each with one thread on the CPU; the whole
takes two and a half minutes of CPU time in all. The exit status is 1 if anything differs. Command lines, results and
their comparison are in ``comparison/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from comparison.commands import APPLICATIONS
from comparison.golden import compare_golden, golden_numbers
from comparison.inputs import make_data
from comparison.programs import process_environment
from comparison.results import MissingResultError, Side
from comparison.table import compare_sides, print_rows
from comparison.worker import work
from comparison.worktree import checkout


def run_sides(sides: Sequence[Side], applications: Sequence[str], *, trainings_only: bool) -> None:
    """Run the commands of every side, each in a process of its own, side by side."""
    running = []
    for side in sides:
        side.folder.mkdir()
        words = [sys.executable, __file__, "--worker", str(side.tree), "--only", ",".join(applications)]
        words += ["--trainings_only"] if trainings_only else []
        running.append(subprocess.Popen(words, cwd=side.folder, env=process_environment(side.tree)))
    try:
        for side, process in zip(sides, running, strict=True):
            if process.wait():
                sys.exit(f"{side.commit} could not be run")
            side.status = json.loads((side.folder / "status.json").read_text(encoding="utf-8"))
    finally:
        for process in running:
            process.terminate()


def main(args: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "commits", nargs="*", metavar="COMMIT", help='a commit, such as HEAD; "." is the files as they are'
    )
    parser.add_argument("--only", default=",".join(APPLICATIONS), help="applications, such as images,text")
    parser.add_argument("--keep", type=Path, help="folder, which must not exist, for everything that the runs leave")
    parser.add_argument(
        "--write", type=Path, help="keep losses and norms of weights of the one commit in this JSON file"
    )
    parser.add_argument("--against", type=Path, help="compare those of the one commit with this JSON file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trainings_only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    applications = [name for name in APPLICATIONS if name in given.only.split(",")]
    unknown = set(given.only.split(",")) - set(APPLICATIONS)
    if unknown:
        parser.error(f"there is no application {', '.join(sorted(unknown))}; there are {', '.join(APPLICATIONS)}")
    if given.worker is not None:
        work(given.worker, applications, trainings_only=given.trainings_only)
        return 0
    golden = given.write or given.against
    if len(given.commits) != (1 if golden else 2):
        parser.error("give two commits, or one with --write or --against")
    if given.keep is not None and given.keep.exists():
        parser.error(f"{given.keep} exists already")
    # Ended by SIGTERM, it still removes its worktrees.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Path(tempfile.mkdtemp(prefix="compare_commits_"))
    try:
        return _run(given, applications, place)
    finally:
        if given.keep is not None:
            shutil.copytree(place, given.keep, symlinks=True)
        shutil.rmtree(place, ignore_errors=True)


def _run(given: argparse.Namespace, applications: list[str], place: Path) -> int:
    trees = place / "trees"
    if len(given.commits) == 1:
        with checkout(given.commits[0], trees / "first") as tree:
            side = Side(given.commits[0], tree, place / "first")
            make_data(place / "data", tree, applications)
            run_sides([side], applications, trainings_only=True)
        return _golden(given, side, applications)
    with checkout(given.commits[0], trees / "first") as tree, checkout(given.commits[1], trees / "second") as other:
        sides = [Side(given.commits[0], tree, place / "first"), Side(given.commits[1], other, place / "second")]
        make_data(place / "data", tree, applications)
        run_sides(sides, applications, trainings_only=False)
    rows = compare_sides(*sides, applications)
    print_rows(rows)
    failed = sum(not row.passes for row in rows)
    print(f"{failed} of {len(rows)} differ" if failed else f"all {len(rows)} equal or exempt")
    return int(failed > 0)


def _golden(given: argparse.Namespace, side: Side, applications: list[str]) -> int:
    try:
        found = golden_numbers(side, applications)
    except MissingResultError as error:
        print(error)
        return 1
    if given.write is not None:
        given.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    rows = compare_golden(json.loads(given.against.read_text(encoding="utf-8")), found)
    print_rows(rows)
    return int(not all(row.passes for row in rows))


if __name__ == "__main__":
    sys.exit(main())
