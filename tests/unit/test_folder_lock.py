"""Locks of folders: one process at a time, whoever is gone is no obstacle."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jitflow.errors import ConfigError
from jitflow.io import folder_lock
from jitflow.io.files import temporary_beside
from jitflow.io.folder_lock import LOCK_NAME, STALE_SEC, live_holder, locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from jitflow.io.folder_lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
RACE = """
import sys, time
from jitflow.errors import ConfigError
from jitflow.io.folder_lock import locked
try:
    with locked(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except ConfigError:
    print("refused", flush=True)
    sys.stdin.read()
"""


def python(code, folder):
    """A Python that starts at once: without site-packages, which locks do not need."""
    command = [sys.executable, "-S", "-c", code, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def end(process):
    process.kill()
    process.communicate()


def change(folder, **values):
    path = folder / LOCK_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_is_held_by_one_process_and_free_afterwards(tmp_path):
    process = python(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    assert live_holder(tmp_path).pid == process.pid
    with pytest.raises(ConfigError, match=f"is in use by process {process.pid}, since"), locked(tmp_path):
        pass
    end(process)
    assert live_holder(tmp_path) is None
    with locked(tmp_path):
        assert live_holder(tmp_path).pid == os.getpid()
        with pytest.raises(ConfigError, match="in use by process"), locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_taken_over_and_said(tmp_path, caplog):
    process = python(HOLD, tmp_path)
    process.stdout.readline()
    # Not reaped: its number is still in the table of processes.
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while live_holder(tmp_path) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "parts").mkdir()
    left = [temporary_beside(tmp_path / name) for name in ("sweep.png", "parts/a.json")]
    with caplog.at_level(logging.INFO, "jitflow"), locked(tmp_path):
        assert not any(path.exists() for path in left)
    assert f"process {process.pid}" in caplog.text and "taken over" in caplog.text
    end(process)


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path):
    with locked(tmp_path):
        change(tmp_path, process_start=1)
        assert live_holder(tmp_path) is None


def test_another_machine_counts_by_its_heartbeat(tmp_path, caplog):
    path = tmp_path / LOCK_NAME
    with locked(tmp_path):
        content = path.read_text()
    path.write_text(content)
    change(tmp_path, host="node7", machine="node7 boot", token="x")
    with pytest.raises(ConfigError, match=r"on node7, since .* after it has died"), locked(tmp_path):
        pass
    before = time.time() - STALE_SEC - 1
    os.utime(path, (before, before))
    with caplog.at_level(logging.INFO, "jitflow"), locked(tmp_path):
        assert "on node7" in caplog.text


def test_a_holder_that_slept_learns_that_it_lost_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "HEARTBEAT_SEC", 0.02)
    with locked(tmp_path) as lock:
        before = (tmp_path / LOCK_NAME).stat().st_mtime_ns
        time.sleep(0.1)
        assert (tmp_path / LOCK_NAME).stat().st_mtime_ns > before
        lock.check()
        change(tmp_path, token="of another", host="node7")
        deadline = time.monotonic() + 10
        while not lock.is_lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(ConfigError, match=r"taken over by process .* on node7"):
            lock.check()
    # Another's lock is not removed.
    assert (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("content", ["", "{}", "[" * 9000, '{"pid": -1}', '{"pid": "x"}', "\udcff"])
def test_a_damaged_lock_is_nobodys(tmp_path, content):
    (tmp_path / LOCK_NAME).write_text(content, errors="surrogateescape")
    assert live_holder(tmp_path) is None
    with locked(tmp_path):
        assert live_holder(tmp_path).pid == os.getpid()


def test_of_several_processes_that_start_at_once_one_wins(tmp_path):
    # Left by a process that is gone: all of them see it.
    with locked(tmp_path):
        change(tmp_path, pid=2**22 + 1)
        content = (tmp_path / LOCK_NAME).read_text()
    (tmp_path / LOCK_NAME).write_text(content)
    processes = [python(RACE, tmp_path) for _ in range(6)]
    assert sorted(process.stdout.readline() for process in processes) == ["held\n", *["refused\n"] * 5]
    for process in processes:
        end(process)


def test_a_forked_process_does_not_give_up_the_lock_of_its_parent(tmp_path, monkeypatch):
    with locked(tmp_path) as lock:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: os.getppid())
            lock.release()
        assert live_holder(tmp_path).pid == os.getpid()
    assert live_holder(tmp_path) is None
