"""Post-train a tiny model in one or two processes on the same images; a script for test_onestep.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from jitflow.io.files import load_checkpoint
from jitflow.posttraining.options import JudgeOptions, MethodOptions, RunOptions
from jitflow.run.fit import fit
from jitflow.run.onestep import one_step_recipe


def main(checkpoint: Path, folder: Path, processes: int) -> None:
    method = MethodOptions(
        "pixels:4", "digits", steps="1,2", updates=4, batch_size=24, micro_batch_size=8, decay=0.9, num_first=30
    )
    run = RunOptions(accelerator="cpu", devices=str(processes))
    done = fit(one_step_recipe(checkpoint, method, JudgeOptions(judge_every=2), run), folder)
    if rank_zero_only.rank == 0:
        state = load_checkpoint(done.checkpoint)
        # AdamW's steps hide a gradient of a wrong scale, its moments do not.
        moments = {place: value["exp_avg"] for place, value in state["optimizer_states"][0]["state"].items()}
        torch.save({"weights": state["state_dict"], "moments": moments}, folder / "result.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Lightning reads it when it is imported, which may have been in the process that this one was forked from.
    rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", "0"))
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    if torch.distributed.is_initialized():
        # A process that ends with gloo's threads still running can be aborted after all work is done.
        torch.distributed.destroy_process_group()
