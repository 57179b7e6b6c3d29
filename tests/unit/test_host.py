"""Settings of the C libraries: chosen where nobody chose, and with the effect they are for."""

import os
import platform
import subprocess
import sys

import pytest

from jitflow.host import keep_freed_memory, let_threads_wait_briefly, thread_waiting

VARIABLES = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
)
# Page faults of five rounds of 120 MiB, after as many rounds that do not count.
FAULTS = """
import resource, sys
from jitflow.host import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(10):
    if turn == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(30 * 2**20) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    for name in VARIABLES:
        # Set first: what is set while the test runs is then taken away after it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_threads_wait_briefly_where_nobody_chose():
    assert thread_waiting() is None
    let_threads_wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    assert thread_waiting() == "GOMP_SPINCOUNT=1000"


def test_a_count_of_ones_own_stays(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    let_threads_wait_briefly()
    assert thread_waiting() == "GOMP_SPINCOUNT=5"


def test_a_policy_of_ones_own_stays_alone(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    let_threads_wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ and "KMP_BLOCKTIME" not in os.environ
    assert thread_waiting() == "OMP_WAIT_POLICY=active"


def faults(how):
    run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, timeout=60)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    assert faults("give back") > 5 * 120 * 2**20 / os.sysconf("SC_PAGE_SIZE") / 2
    assert faults("keep") < 1000


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_thresholds_of_ones_own_stay(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False


def test_without_such_a_library_nothing_happens(monkeypatch):
    def none(name):
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", none)
    assert keep_freed_memory() is False
