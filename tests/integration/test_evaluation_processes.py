"""Evaluation in two processes; also the script that they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation_runs import diverged, fit, make_callback, make_module
from forked_python import forked_python

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.samples import SampleGridCallback
from jitflow.core.seeding import current_seeds, noise_from_seeds
from jitflow.errors import DataError

ROOT = Path(__file__).parents[2]
# Few images for so many dimensions is what these tests want.
pytestmark = pytest.mark.filterwarnings("ignore:num_images")


class Varied(JiTLightningModule):
    """Samples so different that one image too many shows in the score."""

    def generate(self, labels, use_ema=True):
        noise = noise_from_seeds(self.codec.shape, current_seeds(len(labels)))
        return super().generate(labels, use_ema) + noise.mul_(0.5).add_(labels.view(-1, 1, 1, 1) / 3)


def run_processes(folder: Path, processes: int) -> None:
    """Evaluate in one or more processes, then with the last of them failing; what happened goes to files."""
    module = make_module(Varied, learning_rate=1e-9)
    # 45 images are no multiple of 2 processes, and 23 no multiple of the batch size.
    callback = make_callback(batch_size=7)
    grid = SampleGridCallback(1, per_class=1, dirpath=folder / "grids")
    settings = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    trainer = fit(module, callback, grid, **settings)
    result = {**callback.metrics, "logged": float(trainer.callback_metrics["eval/fid"])}
    if trainer.global_rank == processes - 1:
        module.generate = diverged(module)
    try:
        callback._evaluate(trainer, module, 0)
    except (DataError, RuntimeError) as error:
        result["error"] = str(error)
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(result))


def run_script(folder: Path, processes: int) -> list[dict]:
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    for name in ("PL_GLOBAL_SEED", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    # The limit is what catches a process that waits for another.
    done = subprocess.run(
        [forked_python(), __file__, str(folder), str(processes)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


# tests/integration/test_evaluate.py compares two processes with one in the normal suite, by the command's function.
@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    (one,) = run_script(tmp_path / "one", 1)
    two = run_script(tmp_path / "two", 2)
    assert "generated images hold NaN" in one["error"] and "generated images hold NaN" in two[1]["error"]
    assert two[0]["error"] == "the evaluation failed on another process; its own message says why"
    for name in ("eval/fid", "eval/is", "logged"):
        assert two[0][name] == two[1][name] == pytest.approx(one[name], rel=1e-5)
    assert len(list((tmp_path / "two" / "grids").iterdir())) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_processes(Path(sys.argv[1]), int(sys.argv[2]))
    if torch.distributed.is_initialized():
        # A process that ends with gloo's threads still running can be aborted after all work is done.
        torch.distributed.destroy_process_group()
