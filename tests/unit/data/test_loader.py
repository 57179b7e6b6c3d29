"""Workers of a loader: as many as shared memory allows, and never waited for without a word."""

import logging
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from jitflow.data import loader as loading
from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.data.loader import WatchedLoader, fit_workers, worker_arguments
from jitflow.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]
MIB = 2**20


@pytest.mark.parametrize(
    ("wanted", "batch_bytes", "free_bytes", "expected"),
    [
        (4, MIB, 1000 * MIB, (4, 2)),
        # Half of it holds 10 batches: 2 in use, and 8 that are ready.
        (4, MIB, 20 * MIB, (4, 2)),
        (5, MIB, 20 * MIB, (5, 1)),
        (12, MIB, 20 * MIB, (8, 1)),
        (12, MIB, 6 * MIB, (1, 1)),
        (12, MIB, 5 * MIB, (0, 1)),
        (12, 25 * MIB, 64 * MIB, (0, 1)),
        (3, 0, 0, (0, 1)),
    ],
)
def test_the_workers_that_fit(wanted, batch_bytes, free_bytes, expected):
    workers, prefetched = fit_workers(wanted, batch_bytes, free_bytes)
    assert (workers, prefetched) == expected
    assert workers == 0 or (workers * prefetched + 2) * batch_bytes <= free_bytes / 2


class Pictures(Dataset):
    """White noise that takes its time."""

    classes = ("only",)

    def __init__(self, num=8, sleep_sec=0.0, side=8):
        self.num, self.sleep_sec, self.side = num, sleep_sec, side

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        # Not the first, whose size is looked at.
        time.sleep(self.sleep_sec if index else 0)
        return torch.full((3, self.side, self.side), index, dtype=torch.uint8), 0


class Module(ImageDataModule):
    def __init__(self, pictures, **options):
        super().__init__(8, 2, LoaderSettings(seed=0, **options))
        self.dataset_train = pictures


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(loading, "available_cores", lambda: 8)


def test_too_little_shared_memory_is_said_and_changes_no_batch(monkeypatch, caplog, eight_cores):
    def batches(**options):
        loader = Module(Pictures(), **options).train_dataloader()
        return loader.num_workers, [batch.images for batch in loader]

    _, expected = batches(num_workers=0)
    # A batch has 2 pictures of 192 bytes and 4 numbers of 8; two workers and two in use fit into half of this.
    monkeypatch.setattr(loading, "shared_memory_bytes", lambda: 2 * 4 * (2 * 192 + 4 * 8))
    for wanted, fitting in ((6, 2), (2, 2)):
        caplog.clear()
        workers, found = batches(num_workers=wanted)
        assert workers == fitting and all(map(torch.equal, found, expected))
        assert [line for line in caplog.messages if "loader workers instead of 6" in line] == (
            caplog.messages if wanted == 6 else []
        )
    # The images that paths begin from are handed over as well.
    module = Module(Pictures(), num_workers=2)
    module.source_train = Pictures()
    assert module.train_dataloader().num_workers == 0
    # Two processes of a machine share it.
    assert worker_arguments(6, 100, num_processes=2)["num_workers"] == 6
    assert worker_arguments(6, 2 * 192 + 4 * 8, num_processes=2) == {"num_workers": 0}
    monkeypatch.setattr(loading, "shared_memory_bytes", lambda: 100)
    workers, found = batches(num_workers=2)
    assert workers == 0 and all(map(torch.equal, found, expected))
    assert "no loader workers instead of 2" in caplog.text and "--shm-size" in caplog.text


def test_a_loader_without_batches_is_named_and_ends_the_run(monkeypatch, caplog):
    monkeypatch.setattr(loading, "SLOW_SEC", 0.2)
    loader = Module(Pictures(sleep_sec=30), num_workers=1, loader_timeout=0.8).train_dataloader()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="training loader has given no batch"):
        list(loader)
    assert time.monotonic() - began < 20
    (line,) = caplog.messages
    assert "training loader" in line and "1 worker" in line and "ends after 0.8 s" in line


def test_a_slow_loader_is_no_error(monkeypatch, caplog):
    monkeypatch.setattr(loading, "SLOW_SEC", 0.1)
    loader = WatchedLoader(Pictures(3, sleep_sec=0.4), **worker_arguments(1, 192))
    assert len(list(loader)) == 3 and len(list(loader)) == 3
    assert "data loader has given no batch" in caplog.text


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), None])
def test_a_timeout_is_a_positive_number(timeout):
    with pytest.raises(ConfigError, match="loader_timeout"):
        LoaderSettings(loader_timeout=timeout)


def test_few_open_files_are_shared_by_name(monkeypatch, caplog, eight_cores):
    strategy = torch.multiprocessing.get_sharing_strategy()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        for limit, expected in ((10_000, "file_descriptor"), (64, "file_system")):
            monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, hard))
            with caplog.at_level(logging.INFO):
                worker_arguments(4, 192)
            assert torch.multiprocessing.get_sharing_strategy() == expected
            assert ("64 open files are allowed" in caplog.text) == (limit == 64)
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)


SMALL_SHM = """
import sys
sys.path[:0] = sys.argv[1:]
import torch
from test_loader import Module, Pictures
# 6 MB a batch, of which two workers would prepare four.
loader = Module(Pictures(40, side=1000), num_workers=2).train_dataloader()
print(loader.num_workers, loader.prefetch_factor, sum(len(batch.images) for batch in loader))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces")
@pytest.mark.parametrize(("size", "expected"), [("64m", "2 1 40"), ("32m", "0 None 40")])
@pytest.mark.slow
def test_a_small_shared_memory_is_enough(size, expected):
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    command = [sys.executable, "-c", SMALL_SHM, str(ROOT), str(Path(__file__).parent)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.strip() == expected, done.stderr
    assert "No space left" not in done.stderr
