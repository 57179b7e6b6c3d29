"""Run every command that writes in broken environments: each has to work, or to end in one line.

    python tests/soak/environments.py --out /tmp/environments
    python tests/soak/environments.py --only "data prepare" --environment "64 open files"

A process is forked for each command from one that has imported the library; only for LANG=C Python itself is started
again. As root the disks are small file systems of a mount namespace of their own, and rights are those of another user;
otherwise a limit of the size of files stands for a full disk, and closed folders for the others. ``--all`` includes the
demos and judges that train for minutes where nothing stops them. The exit status is 1 if a command died, hung, printed
a traceback, or ended in anything but success or one line of error.
"""

from __future__ import annotations

import argparse
import locale
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from lightning.pytorch.loggers import tensorboard  # noqa: E402, F401 (a fork need not import it)
from writing_commands import COMMANDS, LONG, SMALL, words_of  # noqa: E402

from jitflow import cli  # noqa: E402

_NOBODY = 65534
_LIMIT_SEC = 300
_ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Environment:
    """A broken environment.

    Attributes:
        can_write: Whether results can be written, so that every command should succeed.
        disk: Options of a small file system for the results; empty for an ordinary folder.
        room: Bytes left on that disk.
        enter: Called in the process of the command.
        restarted: Whether Python itself is started in it.
        nameless: Whether the user has no entry in /etc/passwd, as in ``docker run --user 54321``.
    """

    can_write: bool
    disk: str = ""
    room: int = 0
    enter: Callable[[], object] = lambda: None
    restarted: bool = False
    nameless: bool = False


def _become_another() -> None:
    if _ROOT:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def _limit(what: int, most: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(what, (most, most))


def _speak_c() -> None:
    for name in [name for name in os.environ if name.startswith("LC_")]:
        del os.environ[name]
    # ASCII and nothing else, which Python would replace by UTF-8.
    os.environ.update(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


ENVIRONMENTS = {
    "disk full": Environment(False, "size=1m"),
    "disk nearly full": Environment(False, "size=1m", 6000),
    "read-only": Environment(False, "size=1m,ro"),
    "no rights": Environment(False, enter=_become_another),
    "64 open files": Environment(True, enter=_limit(resource.RLIMIT_NOFILE, 64)),
    "8 GB of address space": Environment(True, enter=_limit(resource.RLIMIT_AS, 8 * 2**30)),
    "no HOME": Environment(True, enter=lambda: os.environ.pop("HOME"), nameless=True),
    "LANG=C": Environment(True, enter=_speak_c, restarted=True),
}


def make_inputs(folder: Path, *, spectrograms: bool = True) -> Path:
    """Write the small inputs of all commands, which any user may read; some commands need spectrograms."""
    given = folder / "given"
    shutil.copytree(SMALL, given)
    (given / "data" / "short.txt").write_text("One line.\n\nAnother line of text.\n" * 20)
    simulate = "microdoppler simulate --num_users 2 --images_per_user 6 --img_size 64 --num_processes 1 --output_dir"
    if spectrograms and cli.main([*simulate.split(), str(given / "gait")]):
        raise SystemExit("the inputs could not be made")
    folder.chmod(0o755)
    return given


def check(command: str, name: str, given: Path, folder: Path, *, mounts: bool) -> tuple[bool, str]:
    """Run a command in an environment; return whether that was right, and how it ended.

    Args:
        command: Name of the command in ``COMMANDS``.
        name: Name of the environment.
        given: Inputs of the commands.
        folder: An empty folder for this run.
        mounts: Whether small file systems can be mounted.
    """
    environment = ENVIRONMENTS[name]
    place = folder / "place"
    place.mkdir()
    (folder / "cwd").mkdir()
    for path in (folder, place, folder / "cwd"):
        path.chmod(0o777)
    mounted = bool(environment.disk) and mounts
    nameless = environment.nameless and mounts
    if nameless:
        (folder / "passwd").touch()
        subprocess.run(["mount", "--bind", str(folder / "passwd"), "/etc/passwd"], check=True)
    if mounted:
        writable = environment.disk.removesuffix(",ro")
        subprocess.run(["mount", "-t", "tmpfs", "-o", writable, "tmpfs", str(place)], check=True)
        _fill(place, environment.room)
        if writable != environment.disk:
            subprocess.run(["mount", "-o", f"remount,{environment.disk}", str(place)], check=True)
    elif not environment.can_write and "full" not in name:
        place.chmod(0o555)
    try:
        words = words_of(command, given=str(given), out=str(place / "new"))
        status, said = _run(words, environment, folder, mounted=mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
        if nameless:
            subprocess.run(["umount", "/etc/passwd"], check=True)
        place.chmod(0o755)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if status is None:
        return False, f"did not end within {_LIMIT_SEC} s"
    if status < 0 or "Traceback" in said:
        return False, f"status {status}: {said[-600:]}"
    if status == 0:
        # A file or two may find their place on a disk that is not quite full.
        return environment.can_write or environment.room > 0, "done"
    right = status == 1 and len(errors) == 1 and said.strip().splitlines()[-1] == errors[0]
    return right and (not environment.can_write or "memory" in said or "files" in said), (errors or [said[-600:]])[-1]


def _fill(place: Path, room: int) -> None:
    """Fill a file system up to some bytes."""
    with (place / "fill").open("wb") as file:
        free = os.statvfs(place)
        file.write(b"x" * max(0, free.f_bavail * free.f_frsize - room))


def _run(words: list[str], environment: Environment, folder: Path, *, mounted: bool) -> tuple[int | None, str]:
    """Run a command in a fork; return its status, None if it did not end, and what it printed on stderr."""
    output = folder / "output"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _enter_and_run(words, environment, folder, mounted=mounted)
    deadline = time.monotonic() + _LIMIT_SEC
    while time.monotonic() < deadline:
        found, raw = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(raw), output.read_text(errors="replace")
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, output.read_text(errors="replace")


def _enter_and_run(words: list[str], environment: Environment, folder: Path, *, mounted: bool) -> None:
    status = 1
    try:
        with (folder / "output").open("w") as output:
            for number in (1, 2):
                os.dup2(output.fileno(), number)
        os.closerange(3, 4096)
        # The streams of this process, whatever a caller had put in their place.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False, buffering=1) for number in (1, 2))
        torch.set_num_threads(1)
        os.chdir(folder / "cwd")
        os.environ["HOME"] = str(folder / "cwd")
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "cwd")
        if environment.disk and not mounted and environment.disk.endswith("m"):
            # What the command prints is a file as well.
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(4096, environment.room), resource.RLIM_INFINITY))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        environment.enter()
        if environment.disk.endswith("ro") and not mounted:
            _become_another()
        if environment.restarted:
            locale.setlocale(locale.LC_ALL, "C")
            program = [sys.executable, str(ROOT / "jitflow" / "__main__.py"), *words]
            os.execve(sys.executable, program, dict(os.environ))
        status = cli.main(words)
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1
    except BaseException:  # noqa: BLE001 (the fork must not go on as its parent would)
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def main() -> int:
    """Run all commands in all environments and print a table; 0 if every end was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/jitflow-environments"), help="folder; emptied")
    parser.add_argument("--only", choices=COMMANDS, help="one command")
    parser.add_argument("--environment", choices=ENVIRONMENTS, help="one environment")
    parser.add_argument("--all", action="store_true", help="also what trains for minutes")
    parser.add_argument("--log", type=Path, help="file for the table")
    parser.add_argument("--own_mounts", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if _ROOT and not given.own_mounts and shutil.which("unshare"):
        allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
        if allowed:
            os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv, "--own_mounts"])
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    inputs = make_inputs(given.out)
    rows, wrong, number = [], 0, 0
    for name in [given.environment] if given.environment else ENVIRONMENTS:
        ends: dict[str, int] = {}
        for command in [given.only] if given.only else COMMANDS:
            if command in LONG and ENVIRONMENTS[name].can_write and not given.all:
                continue
            folder = given.out / f"run{number}"
            folder.mkdir()
            right, how = check(command, name, inputs, folder, mounts=given.own_mounts)
            number += 1
            wrong += not right
            end = "done" if how == "done" else "one line" if right else "WRONG"
            ends[end] = ends.get(end, 0) + 1
            print(f"{name}: {command}: {'' if right else 'WRONG '}{how}", flush=True)
            shutil.rmtree(folder)
        rows.append(f"| {name} | {', '.join(f'{count} {end}' for end, count in sorted(ends.items()))} |")
    table = "\n".join(["| environment | ends |", "|---|---|", *rows, "", f"{number} runs, {wrong} wrong"])
    print(table)
    if given.log is not None:
        given.log.write_text(table + "\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
