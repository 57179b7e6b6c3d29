"""Post-train a tiny model in one or two processes on the same images; a script for test_onestep.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from jitflow.io.files import load_checkpoint
from jitflow.posttraining.options import JudgeOptions, MethodOptions, RunOptions
from jitflow.run.fit import fit
from jitflow.run.onestep import one_step_recipe


def main(checkpoint: Path, folder: Path, processes: int) -> None:
    method = MethodOptions(
        "pixels:4", "digits", steps="1,2", updates=4, batch_size=24, micro_batch_size=8, decay=0.9, num_first=30
    )
    run = RunOptions(accelerator="cpu", devices=str(processes))
    # SGD would do, but the recipe has AdamW, whose first steps hide a wrong scale: the saved moments show it.
    done = fit(one_step_recipe(checkpoint, method, JudgeOptions(judge_every=2), run), folder)
    if int(torch.distributed.get_rank()) == 0 if torch.distributed.is_initialized() else True:
        state = load_checkpoint(done.checkpoint)
        moments = state["optimizer_states"][0]["state"]
        populations = {name: value for name, value in state["state_dict"].items() if "populations" in name}
        torch.save(
            {"weights": state["state_dict"], "moments": {k: v["exp_avg"] for k, v in moments.items()}, **populations},
            folder / "result.pt",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    if torch.distributed.is_initialized():
        # A process that ends with gloo's threads still running can be aborted after all work is done.
        torch.distributed.destroy_process_group()
