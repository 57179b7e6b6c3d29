"""Feed damaged files to everything that reads files: each has to load or to raise an error of ours.

    python tests/fuzz/fuzz_loaders.py --inputs 100000 --seed 0

Valid files are mutated: flipped bits, other bytes, cuts, splices, numbers replaced by extreme ones, and, so that what
lies behind a checksum or a length is reached as well, changes inside the members of zip archives and inside the JSON
of headers. An input that makes a loader raise anything else, run for more than 20 seconds, take more than 4 GB or end
the process is kept in ``findings`` beside this file, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from fuzz_targets import Target, make_targets
from mutations import mutate

from jitflow.errors import JitflowError

FINDINGS = Path(__file__).with_name("findings")
SECONDS, GIGABYTES = 20, 4


class TooSlow(BaseException):
    """A loader did not come back."""


def _alarm(number: int, frame: Any) -> None:
    raise TooSlow


def try_input(target: Target, content: bytes) -> str:
    """Load one input; ``loads``, ``refused``, or the traceback of what should not have happened."""
    target.path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        target.load(target.path)
    except JitflowError:
        return "refused"
    except (Exception, TooSlow):  # noqa: BLE001 (what it is looking for)
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return "loads"


def fuzz(target: Target, seed: int, first: int, number: int, results: Any) -> None:
    """Try inputs, in a process of its own, and tell the other one how each ended."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.setrecursionlimit(1000)
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30,) * 2)
    signal.signal(signal.SIGALRM, _alarm)
    for place in range(first, first + number):
        results.send((place, None))
        results.send((place, try_input(target, mutate(target.valid, random.Random(f"{seed} {target.name} {place}")))))
    results.send((-1, None))


def run_target(target: Target, seed: int, number: int) -> tuple[Counter[str], dict[str, tuple[int, str]]]:
    """Try inputs on one loader; go on in a new process if one dies.

    Returns:
        Counts of the outcomes, and for each kind of failure the first input and what happened.
    """
    counts: Counter[str] = Counter()
    failures: dict[str, tuple[int, str]] = {}
    done = 0
    while done < number:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=fuzz, args=(target, seed, done, number - done, sender)
        )
        process.start()
        sender.close()
        place = done
        try:
            while True:
                place, outcome = receiver.recv()
                if place < 0:
                    break
                if outcome is not None:
                    done = place + 1
                    counts[outcome if outcome in ("loads", "refused") else "FAILS"] += 1
                    if outcome not in ("loads", "refused"):
                        lines = outcome.strip().splitlines()
                        where = next((line.strip() for line in reversed(lines) if "/jitflow/" in line), "")
                        failures.setdefault(f"{lines[-1].split(':')[0]} at {where}", (place, outcome))
        except EOFError:
            process.join()
            counts["DIES"] += 1
            failures.setdefault(f"the process ended with {process.exitcode}", (place, ""))
            done = place + 1
        process.join()
    return counts, failures


def main() -> int:
    """Fuzz all loaders; 0 if nothing but our own errors was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in total")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="loaders whose name contains this word")
    given = parser.parse_args()
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    failed = 0
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="jitflow-fuzz-", dir=base) as folder:
        targets = [target for target in make_targets(Path(folder)) if given.only in target.name]
        weights = sum(target.weight for target in targets)
        for target in targets:
            number = -(-given.inputs * target.weight // weights)
            counts, failures = run_target(target, given.seed, number)
            target.path.write_bytes(target.valid)
            total.update(counts)
            print(f"{target.name:28s} {dict(sorted(counts.items()))}", flush=True)
            for kind, (place, outcome) in failures.items():
                failed += 1
                FINDINGS.mkdir(exist_ok=True)
                name = re.sub(r"\W+", "-", f"{target.name} {place}")
                content = mutate(target.valid, random.Random(f"{given.seed} {target.name} {place}"))
                (FINDINGS / name).write_bytes(content)
                print(f"  {kind}: {name}\n    " + "\n    ".join(outcome.strip().splitlines()[-4:]), flush=True)
    print(f"{sum(total.values())} inputs, seed {given.seed}: {dict(sorted(total.items()))}; {failed} kinds of failure")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
