"""Kill the long commands at random moments, give them again, and compare the end with an unbroken run.

    python tests/soak/soak_commands.py --kills 130 --seed 0

Data prepare, simulate, extract, stats, evaluate (one process and two), sweep, and the whole micro-Doppler pipeline, on
small inputs. SIGTERM and SIGKILL alternate, each sent to the command alone at a moment drawn from the time that an
unbroken run takes. Within 20 seconds all of its processes have to be gone: workers, stages, and their workers. In the
end every result has to be equal bit for bit, and no temporary file or lock may be left. Processes are forked from one
that has imported torch (`tests/forked_python.py`), so that a start takes a second and not seven.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from forked_python import forked_python  # noqa: E402
from soak_attempts import differences, final_state  # noqa: E402
from writing_commands import SMALL  # noqa: E402

_GONE_SEC = 20
_EVALUATE = (
    "evaluate {run} --reference {given}/data/images/train --extractor pixels --num_images 150 --steps 10 --device cpu "
    "--batch_size 16 --out {out}"
)
COMMANDS = {
    "data prepare": "data prepare {images} {out} --img_size 64 --workers 2",
    "simulate": "microdoppler simulate --num_users 3 --images_per_user 12 --img_size 64 --num_processes 2 --output_dir "
    "{out}",
    "extract": "microdoppler extract --data_dir {gait} --vavae_path builtin --img_size 128 --num_processes 2 "
    "--batch_size 4 --device cpu --output_path {out}",
    "stats": "stats {images}/train --img_size 32 --extractor pixels --num_workers 2 --out {out}/stats.npz",
    "evaluate": _EVALUATE,
    "evaluate, two processes": f"{_EVALUATE} --processes 2",
    "sweep": "sweep {run} --guidance 1:3:1 --reference {given}/data/images/train --extractor pixels --num_images 30 "
    "--steps 8 --device cpu --out {out}",
    "pipeline": "microdoppler run --data_dir {gait} --output_dir {out} --batch_size 8 --max_epochs 10 --img_size 128 "
    "--model LightningDiT-N/4 --num_samples_per_user 2 --num_steps 4 --device cpu",
}


def make_inputs(folder: Path, *, pictures: int = 400, spectrograms: int = 20) -> dict[str, str]:
    """Write pictures and, of two users, spectrograms; return the words that stand for inputs."""
    draws = np.random.default_rng(0)
    for number in range(pictures):
        path = folder / "images" / ("val" if number % 5 == 0 else "train") / f"c{number % 2}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(path)
    if spectrograms:
        simulate = f"microdoppler simulate --num_users 2 --images_per_user {spectrograms} --img_size 64 --output_dir"
        subprocess.run([forked_python(), _main(), *simulate.split(), str(folder / "gait")], check=True)
    return {
        "images": str(folder / "images"),
        "gait": str(folder / "gait"),
        "given": str(SMALL),
        "run": str(SMALL / "images_recipe"),
    }


def _main() -> str:
    return str(ROOT / "jitflow" / "__main__.py")


def result_of(name: str, folder: Path) -> dict[str, Any]:
    """Return what has to be equal at the end of a command, by file."""
    leftovers = [path for path in folder.rglob("*") if path.name.startswith(".")]
    if leftovers:
        raise AssertionError(f"{name}: left behind: {leftovers[:5]}")
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        place = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[place] = {key: value.tobytes() for key, value in load_file(path).items()}
        elif path.suffix in (".png", ".npz", ".csv", ".npy", ".bin") and "trained_models" not in place:
            found[place] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in ("report.json", "simulation.json", "manifest.json") and "trained_models" not in place:
            content = json.loads(path.read_text())
            found[place] = content.get("metrics", content)
    if name == "pipeline":
        found["training"] = final_state(folder / "trained_models")
    if not found:
        raise AssertionError(f"{name}: no results in {folder}")
    return found


def processes_left() -> list[int]:
    """List all processes that live below the one that forks them."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(path.parent.name)] = int(fields[1])
    found: list[int] = []
    new = [forked_python.server.pid]  # type: ignore[attr-defined]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


class Soak:
    """Everything of one call of the script."""

    def __init__(self, out: Path, seed: int, log: Path | None) -> None:
        self.out, self.draws, self.log_path = out, random.Random(seed), log
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()
        self.rounds = self.differing = 0
        self.longest = 0.0

    def say(self, line: str) -> None:
        """Write a line to the screen and into the log."""
        print(line, flush=True)
        self.lines.append(line)
        if self.log_path is not None:
            self.log_path.write_text("\n".join(self.lines) + "\n")

    def start(self, name: str, folder: Path, words: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a command."""
        line = COMMANDS[name]
        for word, value in {**words, "out": str(folder)}.items():
            line = line.replace(f"{{{word}}}", shlex.quote(value))
        with folder.with_suffix(".output").open("ab") as output:
            command = [forked_python(), _main(), *shlex.split(line)]
            return subprocess.Popen(command, stdout=output, stderr=output)

    def wait_until_gone(self, name: str) -> None:
        """Wait until all processes of a command are gone."""
        began = time.monotonic()
        while left := processes_left():
            if time.monotonic() - began > _GONE_SEC:
                raise AssertionError(f"{name}: {len(left)} processes live on {_GONE_SEC} s after the end")
            time.sleep(0.02)
        self.longest = max(self.longest, time.monotonic() - began)

    def soak(self, name: str, words: dict[str, str], kills: int) -> None:
        """Kill runs of a command until so many kills are done, and finish the last one."""
        whole = self.out / f"{name.replace(' ', '_')}-unbroken"
        began = time.monotonic()
        if self.start(name, whole, words).wait(timeout=600):
            raise SystemExit(f"{name}: the unbroken run failed; see {whole}.output")
        duration = time.monotonic() - began
        expected = result_of(name, whole)
        self.say(f"{name}: unbroken run in {duration:.1f} s, {len(expected)} results")
        done = 0
        while done < kills:
            # The first run may have been slow for other reasons.
            began = time.monotonic()
            folder = self.out / f"{name.replace(' ', '_')}-{self.rounds}"
            self.rounds += 1
            of_this = 0
            while True:
                process = self.start(name, folder, words)
                last = done >= kills
                number = (signal.SIGTERM, signal.SIGKILL)[done % 2]
                try:
                    status = process.wait(timeout=600 if last else self.draws.uniform(0.1, 1.0) * duration)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
                    status = process.wait(timeout=120)
                    if status not in (0, -number, 128 + number):
                        raise AssertionError(
                            f"{name}: {number.name} ended it with {status}; see {folder}.output"
                        ) from None
                    done, of_this = done + 1, of_this + 1
                    self.counts[number.name] += 1
                    self.wait_until_gone(name)
                    if status:
                        continue
                if status:
                    raise AssertionError(f"{name}: failed with {status}; see {folder}.output")
                break
            self.wait_until_gone(name)
            if not of_this:
                duration = min(duration, time.monotonic() - began)
            wrong = differences(expected, result_of(name, folder))
            self.differing += bool(wrong)
            self.say(f"{name}: {of_this} kills; {'DIFFERS in ' + str(wrong[:5]) if wrong else 'bit-equal'}")
            if not wrong:
                shutil.rmtree(folder)


def main() -> int:
    """Soak all commands; 0 if everything was equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=130, help="kills in total")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", type=Path, default=Path("/tmp/jitflow-soak-commands"), help="folder; emptied")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--only", choices=COMMANDS, help="one command")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    words = make_inputs(given.out)
    soak = Soak(given.out, given.seed, given.log)
    names = [given.only] if given.only else list(COMMANDS)
    soak.say(f"soak of commands: {given.kills} kills, seed {given.seed}")
    for place, name in enumerate(names):
        soak.soak(name, words, given.kills * (place + 1) // len(names) - given.kills * place // len(names))
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items()))
    soak.say(
        f"soak of commands: {sum(soak.counts.values())} kills ({kinds}) in {soak.rounds} runs, {soak.differing} runs "
        f"differ; all processes were gone {soak.longest:.1f} s after the end at most"
    )
    return int(soak.differing > 0)


if __name__ == "__main__":
    sys.exit(main())
