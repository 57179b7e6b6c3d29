"""Memory of a training step by network, and the largest batch that fits: estimated and measured.

Run: ``python benchmarks/bench_memory.py``; ``--row NAME`` for one network, or for the table of docs/speed.md. On a CPU
two small steps are compared with their estimates, on CUDA two large ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from _timing import Report, add_output_options, add_row_options, autocast_on, prepare
from _training import our_training_step
from _turns import wait_for_turn
from _variants import Bare
from torch.profiler import ProfilerActivity, profile

from jitflow.nets.registry import create_model
from jitflow.run.memory import TrainingMemory, estimate_memory

NETWORKS = ("JiT-N/4", "JiT-S/16", "JiT-B/16", "JiT-L/16", "JiT-H/16", "JiT-B/32", "JiT-L/32", "JiT-H/32")
CAPACITIES_GIB = (24, 80, 139)
GIB = 2**30
# The network and its batch.
MEASURED = {
    "tiny": ("JiT-N/4", 4),
    "nano": ("JiT-N/4", 64),
    "small": ("JiT-S/16", 16),
    "base": ("JiT-B/16", 64),
    "large": ("JiT-L/16", 32),
}
DEFAULT_ROWS = {"cpu": ["table", "nano", "small"], "cuda": ["table", "base", "large"]}


def meta_module(name: str, **settings: Any) -> Bare:
    """Build a module with weights on the meta device, which takes no memory."""
    with torch.device("meta"):
        size = create_model(name).img_size
        assert isinstance(size, tuple)
        return Bare(name, size, **settings)


def print_table(precision: str) -> dict[str, TrainingMemory]:
    """Print the estimate of every network, with and without activation checkpointing."""
    found = {}
    fits = " | ".join(f"batch in {c} GiB" for c in CAPACITIES_GIB)
    print(f"| {precision} | state | per image | batch 32 | {fits} |")
    for name in NETWORKS:
        for checkpointing in (False, True):
            memory = estimate_memory(meta_module(name, gradient_checkpointing=checkpointing), precision=precision)
            shown = name + (", checkpointing" if checkpointing else "")
            found[shown] = memory
            fits = " | ".join(str(memory.largest_batch(c * GIB)) for c in CAPACITIES_GIB)
            print(
                f"| {shown} | {memory.state / GIB:.2f} GiB | {memory.per_image / 2**20:.1f} MiB "
                f"| {memory.peak(32) / GIB:.1f} GiB | {fits} |",
                flush=True,
            )
    return found


def measured_peak(name: str, batch: int, device: str) -> int:
    """Measure the peak memory of a real step in bytes, including its state."""
    module = Bare(name, create_model(name).img_size, compile=False).to(device)
    images = torch.zeros(batch, *module.codec.shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    step = our_training_step(module, images, labels, autocast_on(device))
    step()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    # The step starts with the last step's gradients, which it frees and recomputes.
    gradients = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    now = peak = gradients
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    memory = estimate_memory(module)
    return memory.state + peak


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_options(parser)
    parser.add_argument("--no_table", action="store_true", help="only measure")
    add_row_options(parser, ["table", *MEASURED])
    args = parser.parse_args(argv)
    prepare(args)
    report = Report(device=args.device, out=args.out)
    # Nothing is compiled, so all of it is this benchmark's turn.
    wait_for_turn()
    precision = "bf16-mixed" if args.device.startswith("cuda") else "32-true"
    for row in args.row or DEFAULT_ROWS[args.device.split(":")[0]]:
        if row == "table":
            if not args.no_table:
                print_table(precision)
            continue
        name, batch = MEASURED["tiny" if args.tiny else row]
        estimate = estimate_memory(meta_module(name), precision=precision).peak(batch)
        measured = measured_peak(name, batch, args.device)
        shown = f"memory of a step, {name}, batch {batch}, estimate / measured"
        report.add(shown, estimate / 2**20, measured / 2**20, "MiB")
    print(f"rows are in {report.out}")


if __name__ == "__main__":
    main()
