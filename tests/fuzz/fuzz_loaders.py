"""Feed damaged files to everything that reads files: each has to load or to raise an error of ours, within limits.

    python tests/fuzz/fuzz_loaders.py --inputs 20000 --seed 0

Valid files are mutated: flipped bits, other bytes, cuts, splices, and, so that what lies behind a checksum or a length
is reached as well, what their format knows (``structures.py``): values of checkpoints, instructions of pickles, headers
of arrays and pictures, members of archives, aliases and tags of YAML, values of JSON, cells of logs, parts of
tokenizers. Every kind of file gets the same number of inputs.

An input fails if its reader raises anything but an error of jitflow, takes more than 5 seconds of processor time or
500 MB above the process's own memory and the size of the file, starts a program, imports a module that the file names,
or ends the process. It is kept in ``findings`` beside this file, and the exit status is 1.
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
import time
import traceback
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# Makers of files that other tests use too.
sys.path.append(str(Path(__file__).parents[1]))

from fuzz_targets import Target, make_targets
from mutations import mutate

from jitflow.errors import JitflowError

FINDINGS = Path(__file__).with_name("findings")
SECONDS, MEGABYTES = 5, 500
# So that a reader that asks for all memory does not get it.
_MOST_GIGABYTES = 4
# On the clock, of readers that wait for another process.
_MOST_SECONDS = 60
# Events of the interpreter that start a program.
_EXECUTIONS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen")
_executed: list[str] = []


class TooSlow(BaseException):
    """A loader did not come back."""


def _alarm(number: int, frame: Any) -> None:
    raise TooSlow


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note a program that is started, but for those that try tokenizers and HDF5, or an import of a file's choice."""
    if event in _EXECUTIONS:
        # The latter is Python's own way to start the same process.
        own = event in ("subprocess.Popen", "os.posix_spawn")
        if not (own and any(program in str(arguments[1]) for program in ("tokenizers", "hdf5_child"))):
            _executed.append(f"{event} {arguments!r:.200}")
    elif event == "import" and arguments[0].startswith("fuzz_trap"):
        _executed.append(f"import of {arguments[0]}")


def _status(name: str) -> int:
    """Read a number of bytes about this process, such as its largest memory so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def try_input(target: Target, content: bytes) -> str:
    """Load one input; ``loads``, ``refused``, or the traceback of what should not have happened."""
    target.path.write_bytes(content)
    _executed.clear()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _alarm)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(_MOST_SECONDS)
    try:
        target.load(target.path)
        outcome = "loads"
    except JitflowError:
        outcome = "refused"
    except (Exception, TooSlow):  # noqa: BLE001 (what it is looking for)
        outcome = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return f"executed: {_executed[0]}" if _executed else outcome


def fuzz(target: Target, seed: int, first: int, number: int, results: Any) -> None:
    """Try inputs, in a process of its own, and tell the other one how each ended, how long it took and its memory."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.setrecursionlimit(1000)
    sys.addaudithook(_watch)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MOST_GIGABYTES * 2**30,) * 2)
    before = _status("VmHWM")
    for place in range(first, first + number):
        results.send((place, None, 0.0, 0))
        content = mutate(target.valid, random.Random(f"{seed} {target.name} {place}"))
        if _status("VmHWM") - before > MEGABYTES * 10**6:
            # That was the mutation.
            Path("/proc/self/clear_refs").write_text("5")
        started = time.process_time()
        outcome = try_input(target, content)
        seconds, peak = time.process_time() - started, _status("VmHWM") - before
        if peak > len(content) + MEGABYTES * 10**6:
            outcome = f"memory: {peak / 1e6:.0f} MB" if outcome in ("loads", "refused") else outcome
            # Resets the largest memory so far, which takes as long as an input.
            Path("/proc/self/clear_refs").write_text("5")
        results.send((place, outcome, seconds, peak))
    results.send((-1, None, 0.0, 0))


@dataclass
class Result:
    """How the inputs of a kind of file ended: counts, failures by kind, the slowest and the largest."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 0.0
    peak: int = 0

    def add(self, place: int, outcome: str, seconds: float, peak: int) -> None:
        """Count an input."""
        fine = outcome in ("loads", "refused")
        self.counts[outcome if fine else "FAILS"] += 1
        self.seconds, self.peak = max(self.seconds, seconds), max(self.peak, peak)
        if not fine:
            lines = outcome.strip().splitlines()
            where = next((line.strip() for line in reversed(lines) if "/jitflow/" in line), "")
            self.failures.setdefault(f"{lines[-1].split(':')[0]} at {where}", (place, outcome))


def run_target(target: Target, seed: int, number: int) -> Result:
    """Try inputs on one loader; go on in a new process if one dies."""
    result, done = Result(), 0
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
                place, outcome, seconds, peak = receiver.recv()
                if place < 0:
                    break
                if outcome is not None:
                    done = place + 1
                    result.add(place, outcome, seconds, peak)
        except EOFError:
            process.join()
            result.add(place, f"the process ended with {process.exitcode}", 0.0, 0)
            done = place + 1
        process.join()
    return result


def inputs_of(targets: list[Target], total: int) -> dict[str, int]:
    """Return how many inputs each target gets: the same for every kind of file, in it by weight."""
    kinds: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        kinds[target.reader].append(target)
    share = total / len(kinds)
    return {
        target.name: -int(-share * target.weight // sum(other.weight for other in same))
        for same in kinds.values()
        for target in same
    }


def main() -> int:
    """Fuzz all loaders; 0 if nothing but our own errors within the limits was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs in total")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="loaders whose name or kind of file contains this word")
    given = parser.parse_args()
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    failed, kinds = 0, defaultdict[str, Result](Result)
    with tempfile.TemporaryDirectory(prefix="jitflow-fuzz-", dir=base) as folder:
        found = make_targets(Path(folder))
        numbers = inputs_of(found, given.inputs)
        for target in [target for target in found if given.only in target.name or given.only in target.reader]:
            result = run_target(target, given.seed, numbers[target.name])
            target.path.write_bytes(target.valid)
            kind = kinds[target.reader]
            kind.counts.update(result.counts)
            kind.seconds, kind.peak = max(kind.seconds, result.seconds), max(kind.peak, result.peak)
            print(f"{target.name:28s} {dict(sorted(result.counts.items()))}", flush=True)
            for reason, (place, outcome) in result.failures.items():
                failed += 1
                FINDINGS.mkdir(exist_ok=True)
                name = re.sub(r"\W+", "-", f"{target.name} {place}")
                content = mutate(target.valid, random.Random(f"{given.seed} {target.name} {place}"))
                (FINDINGS / name).write_bytes(content)
                print(f"  {reason}: {name}\n    " + "\n    ".join(outcome.strip().splitlines()[-4:]), flush=True)
    print("\n| kind of file | inputs | loaded | refused | failed | slowest | most memory |\n" + "|---" * 7 + "|")
    for name, kind in kinds.items():
        loaded, refused, bad = (kind.counts[outcome] for outcome in ("loads", "refused", "FAILS"))
        print(
            f"| {name} | {kind.counts.total():,} | {loaded:,} | {refused:,} | {bad} | {kind.seconds:.1f} s "
            f"| {kind.peak / 1e6:.0f} MB |"
        )
    total = sum(kind.counts.total() for kind in kinds.values())
    print(f"\n{total:,} inputs, seed {given.seed}: {failed} kinds of failure")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
