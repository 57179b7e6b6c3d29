"""Ratios of our fast paths to the plain ones, in one process: optimiser, EMA, guidance.

Run: ``make bench`` (about a minute on two CPU cores). Writes ``benchmarks/results/<machine>.json``, a list of rows
with name, ours, reference, ratio, unit and command.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from jitflow.core.ema import copy_parameters, update_ema_
from jitflow.training.jit_module import JiTLightningModule
from jitflow.training.optim import build_adamw
from jitflow.training.run_folder import describe_environment

COMMAND = "make bench"


def interleaved(ours: Callable[[], object], reference: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median milliseconds of two functions, run in turns so that a busy moment hits both; the first turn is lost."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for function, taken in zip((ours, reference), times, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def bench_optimiser(repeats: int) -> tuple[float, float]:
    """One step of AdamW over JiT-S/16 (33M parameters): fused against torch's default."""
    modules = [JiTLightningModule("JiT-S/16") for _ in range(2)]
    optimisers = [
        build_adamw(m, learning_rate=1e-4, fused=fused) for m, fused in zip(modules, (True, False), strict=True)
    ]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    return interleaved(optimisers[0].step, optimisers[1].step, repeats)


def bench_ema(repeats: int) -> tuple[float, float]:
    """One update of an average of JiT-S/16: one call for all parameters against a loop."""
    weights = dict(JiTLightningModule("JiT-S/16").named_parameters())
    averages, looped = copy_parameters(weights), copy_parameters(weights)

    @torch.no_grad()
    def loop() -> None:
        for name, parameter in weights.items():
            looped[name].mul_(0.9999).add_(parameter, alpha=1 - 0.9999)

    return interleaved(lambda: update_ema_(averages, weights, 0.9999), loop, repeats)


def bench_guidance(repeats: int) -> tuple[float, float]:
    """Eight Heun steps of JiT-N/4, batch 8, guidance in (0.1, 0.5): batched where needed against two passes always."""
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=8, cfg_interval=(0.1, 0.5))
    labels = torch.arange(8)

    class TwoPasses(JiTLightningModule):
        def _forward_sample(self, z, t, labels):  # type: ignore[no-untyped-def]
            scale, self.cfg_scale = self.cfg_scale, 1.0
            v_cond = super()._forward_sample(z, t, labels)
            v_uncond = super()._forward_sample(z, t, torch.full_like(labels, self.num_classes))
            self.cfg_scale = scale
            return v_uncond + scale * (v_cond - v_uncond)

    plain = TwoPasses("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=8)
    plain.load_state_dict(module.state_dict())
    for m in (module, plain):
        m.cfg_scale = 2.0
    return interleaved(
        lambda: module.generate(labels, use_ema=False), lambda: plain.generate(labels, use_ema=False), repeats
    )


BENCHES = {
    "AdamW step, JiT-S/16, fused / default": bench_optimiser,
    "EMA update, JiT-S/16, multi-tensor / loop": bench_ema,
    "guided sampling, JiT-N/4, batched in interval / two passes": bench_guidance,
}


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/<machine>.json")
    args = parser.parse_args()
    rows = []
    for name, bench in BENCHES.items():
        ours, reference = bench(args.repeats)
        ratio = round(reference / ours, 2)
        rows.append(
            {"name": name, "ours": round(ours, 2), "reference": round(reference, 2), "ratio": ratio, "unit": "ms"}
        )
        print(f"{name:<60} {ours:9.2f} ms  {reference:9.2f} ms  {ratio:5.2f}x")
    environment = describe_environment()
    machine = f"{platform.machine()}-{torch.get_num_threads()}threads".lower()
    out = args.out or Path(__file__).parent / "results" / f"{machine}.json"
    rows = [{**row, "command": COMMAND, "commit": environment["commit"], "torch": torch.__version__} for row in rows]
    out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
