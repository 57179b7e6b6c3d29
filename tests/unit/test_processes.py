"""Processes that the library starts: their path, their signals, and their end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jitflow.io.processes import exit_on_termination

ROOT = Path(__file__).parents[2]
CASE = 'open({mark!r}, "w").close()\nraise ImportError("a module of the working folder")\n'
# A process that runs the command; a stub of Python stands for the interpreter that it would start.
PARENT = """
import sys
from jitflow.io.processes import exit_on_termination, run_command
sys.executable = sys.argv[1]
with exit_on_termination():
    sys.exit(run_command(["word", "two words"]))
"""
COMMAND = """
import os, subprocess, sys, time
from jitflow.io.processes import end_with_parent
end_with_parent()
assert "JITFLOW_PARENT_PIPE" not in os.environ
assert sys.argv[2:] == ["word", "two words"], sys.argv
helper = subprocess.Popen(["sleep", "60"]).pid if {helper} else 0
{first}
print(os.getpid(), helper, flush=True)
{then}
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def start(folder, *, then, first="", helper=False):
    """Start a process that runs a command; return it, and the numbers of the command and of what that started."""
    (folder / "command.py").write_text(COMMAND.format(then=then, first=first, helper=helper))
    stub = folder / "python"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -S {folder / "command.py"} "$@"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", PARENT, str(stub)], stdout=subprocess.PIPE, text=True, env=environment
    )
    return process, [int(number) for number in process.stdout.readline().split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for_end(*pids):
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


@pytest.mark.parametrize(("then", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 256 - 9)])
def test_the_status_of_a_command_is_returned(tmp_path, then, status):
    process, (pid, helper) = start(tmp_path, then=then, helper=True)
    assert process.wait(timeout=20) == status
    # What the command left running as well.
    assert wait_for_end(pid, helper)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_signal_ends_the_command_and_what_it_started(tmp_path):
    process, (pid, helper) = start(tmp_path, then="time.sleep(60)", helper=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert wait_for_end(pid, helper)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_command_decides_what_a_signal_means(tmp_path):
    saves = (
        f"import signal; signal.signal(15, lambda *_: (open({str(tmp_path / 'saved')!r}, 'w').close(), sys.exit(143)))"
    )
    process, (pid, _) = start(tmp_path, first=saves, then="time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert (tmp_path / "saved").exists() and wait_for_end(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_command_ends_when_its_parent_is_killed(tmp_path):
    process, (pid, _) = start(tmp_path, then="time.sleep(60)")
    process.kill()
    process.wait()
    assert wait_for_end(pid)


def test_a_second_termination_ends_at_once():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with exit_on_termination():
            with pytest.raises(SystemExit) as caught:
                os.kill(os.getpid(), signal.SIGTERM)
            assert caught.value.code == 128 + signal.SIGTERM
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def hostile_folder(folder):
    """A folder with modules of the names that starting processes and reading options import."""
    folder.mkdir()
    for name in ("yaml", "socket", "random", "tempfile", "jsonargparse", "torch", "pathlib", "logging", "signal"):
        (folder / f"{name}.py").write_text(CASE.format(mark=str(folder / "EXECUTED")))
    return folder


def test_a_command_imports_no_module_of_the_working_folder(tmp_path):
    folder = hostile_folder(tmp_path / "hostile")
    command = [sys.executable, str(ROOT / "jitflow" / "__main__.py"), "runs", "--help"]
    done = subprocess.run(command, cwd=folder, env=without_path(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "--folder" in done.stdout, done.stderr
    assert not (folder / "EXECUTED").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python knows no safe path")
def test_workers_import_no_module_of_the_working_folder(tmp_path):
    folder = hostile_folder(tmp_path / "hostile")
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.append({str(ROOT)!r})\nfrom jitflow.io.parallel import map_processes\n"
        "def square(task, tick):\n    return task * task\n"
        "if __name__ == '__main__':\n"
        "    squares = map_processes(square, range(4), workers=2, on_items=print)\n"
        "    print(sorted(squares), 'PYTHONSAFEPATH' in os.environ)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", str(script)], cwd=folder, env=without_path(), capture_output=True, text=True, timeout=100
    )
    assert done.stdout.endswith("[0, 1, 4, 9] False\n"), done.stderr
    assert not (folder / "EXECUTED").exists()


def without_path():
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
