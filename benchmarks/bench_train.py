"""Training step compared with the JiT release's: same shapes, weights and precision, in turns.

Run: ``python benchmarks/bench_train.py --reference <checkout of the release>``. On a CPU two sizes: eager, with blocks
compiled, and with the whole network compiled; on CUDA JiT-B/16 at 256 px in bf16, blocks compiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from _flops import check_formula, forward_flops
from _profile import time_by_kind
from _release import release_training_step, release_twin
from _timing import Report, add_common_options, interleaved

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.utilisation import peak_flops
from jitflow.core.ema import copy_parameters, update_ema_
from jitflow.host import keep_freed_memory
from jitflow.layers.transformer import CompiledParts
from jitflow.training.optim import build_adamw


@dataclass(frozen=True)
class Case:
    """Case of the benchmark: network, image size and batch.

    Attributes:
        model: Name of the network.
        img_size: Side in pixels.
        num_classes: Number of classes.
        batch: Images in a step.
    """

    model: str
    img_size: int
    num_classes: int
    batch: int

    @property
    def name(self) -> str:
        """Label of a row."""
        return f"{self.model}, {self.img_size} px, batch {self.batch}"


CASES = {
    "cpu": [Case("JiT-N/4", 16, 10, 64), Case("JiT-B/16", 256, 1000, 2)],
    "cuda": [Case("JiT-B/16", 256, 1000, 128)],
}


class Bare(JiTLightningModule):
    """Module without a trainer to log to."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Drop the value, as a trainer does between logged steps."""


def our_training_step(
    module: JiTLightningModule, images: torch.Tensor, labels: torch.Tensor, autocast: Any
) -> Callable[[], None]:
    """Build the training step of a trainer with EMACallback: loss, backward, AdamW, two averages."""
    optimiser = module.configure_optimizers()
    weights = dict(module.named_parameters())
    module.ema_params1, module.ema_params2 = copy_parameters(weights), copy_parameters(weights)

    def step() -> None:
        with autocast:
            loss = module.training_step((images, labels), 0)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        weights = dict(module.named_parameters())
        update_ema_(module.ema_params1, weights, module.ema_decay1)
        update_ema_(module.ema_params2, weights, module.ema_decay2)

    return step


def shake_(module: JiTLightningModule) -> None:
    """Perturb the initial weights, whose zero modulations would give zero outputs."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))


# Label of a row.
COMPILED = {False: "ours", "blocks": "ours compiled", "network": "ours compiled as one"}


def bench_case(case: Case, report: Report, args: argparse.Namespace, *, compiled: bool | CompiledParts) -> None:
    """Time the training step of a case, after checking that both sides compute the same."""
    torch.manual_seed(0)
    cuda = args.device.startswith("cuda")
    module = Bare(case.model, case.img_size, case.num_classes, compile=compiled).to(args.device)
    shake_(module)
    images = torch.randint(0, 256, (case.batch, 3, case.img_size, case.img_size), dtype=torch.uint8).to(args.device)
    labels = (torch.arange(case.batch) % case.num_classes).to(args.device)
    autocast = torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext()
    functions: list[Callable[[], object]] = [our_training_step(module, images, labels, autocast)]
    more: dict[str, Any] = {"clock": args.clock}
    if args.reference is not None:
        twin = release_twin(args.reference.resolve(), module)
        functions.append(release_training_step(twin, images, labels, autocast))
        x, t = torch.randn_like(images, dtype=torch.float32), torch.rand(case.batch, device=args.device)
        with torch.no_grad(), autocast:
            ours, theirs = module.net(x, t, labels).float(), twin.net(x, t, labels).float()
        more["largest_difference"] = float(f"{(ours - theirs).abs().max():.1e}")
    times = interleaved(functions, args.repeats, device=args.device, clock=args.clock)
    flops = 3 * forward_flops(module.net) * case.batch / times[0] * 1000
    peak = peak_flops(torch.device(args.device))
    more.update(images_per_sec=round(1000 * case.batch / times[0], 1), gflops_per_sec=round(flops / 1e9, 1))
    more["formula_over_count"] = round(check_formula(module.net), 4)
    if peak is not None:
        more["mfu"] = round(flops / peak, 3)
    for whose, function in zip(("ours", "reference"), functions, strict=False):
        more[f"profile_{whose}"] = time_by_kind(function, device=args.device)
    reference = times[1] if len(times) > 1 else None
    shown = "ours" if cuda else COMPILED[compiled]
    report.add(f"training step, {case.name}, {shown} / release", times[0], reference, "ms", **more)


def bench_optimiser(repeats: int, device: str, clock: str) -> list[float]:
    """Time a step of AdamW over JiT-S/16 (33M parameters): fused against torch's default."""
    modules = [JiTLightningModule("JiT-S/16").to(device) for _ in range(2)]
    optimisers = [
        build_adamw(m, learning_rate=1e-4, fused=fused) for m, fused in zip(modules, (True, False), strict=True)
    ]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    return interleaved([o.step for o in optimisers], repeats, device=device, clock=clock)


def bench_ema(repeats: int, device: str, clock: str) -> list[float]:
    """Time an EMA update of JiT-S/16: this library's against the release's loop."""
    weights = dict(JiTLightningModule("JiT-S/16").to(device).named_parameters())
    averages, looped = copy_parameters(weights), copy_parameters(weights)

    @torch.no_grad()
    def loop() -> None:
        for name, parameter in weights.items():
            looped[name].mul_(0.9999).add_(parameter, alpha=1 - 0.9999)

    return interleaved([lambda: update_ema_(averages, weights, 0.9999), loop], repeats, device=device, clock=clock)


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, repeats=9)
    parser.add_argument("--model", default=None, help="only this network, with --img_size, --num_classes, --batch")
    parser.add_argument("--img_size", type=int, default=256)
    parser.add_argument("--num_classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--eager", action="store_true", help="do not compile our blocks")
    args = parser.parse_args()
    # As `jitflow` does; the release benefits too.
    keep_freed_memory()
    report = Report(device=args.device, out=args.out)
    cases = CASES[args.device.split(":")[0]]
    if args.model is not None:
        cases = [Case(args.model, args.img_size, args.num_classes, args.batch)]
    # On a GPU training is always compiled; on a CPU both are measured.
    ways: list[bool | CompiledParts] = [False, "blocks", "network"]
    if args.eager or args.device.startswith("cuda"):
        ways = [False] if args.eager else ["blocks"]
    for case in cases:
        for compiled in ways:
            bench_case(case, report, args, compiled=compiled)
    if args.model is None:
        how = (args.repeats, args.device, args.clock)
        report.add("AdamW step, JiT-S/16, fused / default", *bench_optimiser(*how), "ms", clock=args.clock)
        report.add("EMA update, JiT-S/16, ours / loop", *bench_ema(*how), "ms", clock=args.clock)
    print(f"rows are in {report.out}")


if __name__ == "__main__":
    main()
