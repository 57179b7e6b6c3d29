"""Memory of a training step by network, and the largest batch that fits: estimated and measured.

Run: ``python benchmarks/bench_memory.py``. On a CPU one small step is compared with its estimate; on CUDA every network
    of the table that fits. Prints the table of docs/speed.md.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torch
from _timing import Report
from bench_train import Bare, our_training_step
from torch.profiler import ProfilerActivity, profile

from jitflow.nets.registry import create_model
from jitflow.run.memory import TrainingMemory, estimate_memory

NETWORKS = ("JiT-N/4", "JiT-S/16", "JiT-B/16", "JiT-L/16", "JiT-H/16", "JiT-B/32", "JiT-L/32", "JiT-H/32")
CAPACITIES_GIB = (24, 80, 139)
GIB = 2**30


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
    module = Bare(name, create_model(name).img_size).to(device)
    images = torch.zeros(batch, *module.codec.shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    autocast = torch.autocast("cuda", torch.bfloat16) if device.startswith("cuda") else nullcontext()
    step = our_training_step(module, images, labels, autocast)
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


def main() -> None:
    """Print the table, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", default=None)
    parser.add_argument("--no_table", action="store_true", help="only measure")
    args = parser.parse_args()
    report = Report(device=args.device, out=args.out)
    cuda = args.device.startswith("cuda")
    if not args.no_table:
        print_table("bf16-mixed" if cuda else "32-true")
    for name, batch in [("JiT-B/16", 64), ("JiT-L/16", 32)] if cuda else [("JiT-N/4", 64), ("JiT-S/16", 16)]:
        precision = "bf16-mixed" if cuda else "32-true"
        estimate = estimate_memory(meta_module(name), precision=precision).peak(batch)
        measured = measured_peak(name, batch, args.device)
        shown = f"memory of a step, {name}, batch {batch}, estimate / measured"
        report.add(shown, estimate / 2**20, measured / 2**20, "MiB")
    print(f"rows are in {report.out}")


if __name__ == "__main__":
    main()
