"""Two processes with half the batch each do what one does with all of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from forked_python import forked_python

ROOT = Path(__file__).parents[2]


def train(folder: Path, processes: int, accumulate: int) -> list[dict]:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("PL_GLOBAL_SEED", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    script = Path(__file__).with_name("ddp_run.py")
    # The limit is what catches a callback that waits for the other rank.
    done = subprocess.run(
        [forked_python(), str(script), str(folder), str(processes), str(accumulate)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Absolute: Adam turns the rounding of a tiny gradient into a tiny difference of the weight, of any relative size.
    return bool((a - b).abs().max() <= 1e-5)


# Accumulation changes nothing about how processes share; a start of two processes takes most of the time.
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_equal_one(tmp_path, accumulate):
    (one,) = train(tmp_path / "one", 1, accumulate)
    two = train(tmp_path / "two", 2, accumulate)
    assert len(one["losses"]) == 8
    for result in two:
        torch.testing.assert_close(torch.tensor(result["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=0)
        for group in ("weights", "ema1", "ema2"):
            for name, value in one[group].items():
                assert close(result[group][name], value), (group, name)
    for group in ("weights", "ema1", "ema2"):
        for name, value in two[0][group].items():
            assert torch.equal(two[1][group][name], value), (group, name)
    assert (tmp_path / "two" / "checkpoints" / "checkpoint-last.pth").exists()
    assert len(list((tmp_path / "two" / "grids").glob("*.png"))) == 2
    # The first process alone draws, and the other goes on.
    assert len(list((tmp_path / "two" / "pictures").glob("*.png"))) == 4
