"""Sampling compared with the JiT release's, and fast paths with plain ones, in turns in one process.

Run: ``python benchmarks/bench_sample.py --reference <checkout of the release>``. Guidance acts in (0.1, 1.0). On a
CPU the demo's network; on CUDA JiT-B/16 at 256 px in bf16, blocks compiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from _flops import forward_flops
from _profile import time_by_kind
from _release import release_twin
from _timing import Report, add_common_options, interleaved
from bench_train import Case, shake_

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.utilisation import peak_flops
from jitflow.core.guidance import guidance_weight
from jitflow.core.seeding import use_seeds
from jitflow.core.times import time_grid
from jitflow.host import keep_freed_memory

CASES = {"cpu": (Case("JiT-N/4", 16, 10, 64), 10), "cuda": (Case("JiT-B/16", 256, 1000, 64), 50)}
GUIDANCE, INTERVAL = 2.9, (0.1, 1.0)


class WithoutTable(JiTLightningModule):
    """The plain loop: an overridden method makes the module compute every modulation when needed."""

    def _forward_sample(self, z: Any, t: Any, labels: Any) -> Any:
        return super()._forward_sample(z, t, labels)


class TwoPasses(JiTLightningModule):
    """Guidance as in the release: two passes, even where the scale is 1."""

    def _forward_sample(self, z: Any, t: Any, labels: Any) -> Any:
        scale, self.cfg_scale = self.cfg_scale, 1.0
        v_cond = super()._forward_sample(z, t, labels)
        v_uncond = super()._forward_sample(z, t, torch.full_like(labels, self.num_classes))
        self.cfg_scale = scale
        return v_uncond + float(guidance_weight(torch.as_tensor(t).reshape(-1)[:1], scale, INTERVAL)) * (
            v_cond - v_uncond
        )


def make(kind: type[JiTLightningModule], case: Case, steps: int, **settings: Any) -> JiTLightningModule:
    """Build a module for a case, with sampling set up and weights of the same seed."""
    torch.manual_seed(0)
    module = kind(
        case.model,
        case.img_size,
        case.num_classes,
        cfg_scale=GUIDANCE,
        cfg_interval=INTERVAL,
        num_sampling_steps=steps,
        **settings,
    )
    shake_(module)
    return module.eval()


def passes_of_a_sample(steps: int) -> int:
    """Count the network passes of one guided image: Heun's evaluations, twice inside the guidance interval."""
    times = time_grid(steps)
    asked = torch.cat([times[:-1], times[1:-1]])
    return len(asked) + int((guidance_weight(asked, GUIDANCE, INTERVAL) != 1).sum())


def sampling_of(module: JiTLightningModule, labels: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Build a function that samples from a module as in practice: in bf16 on CUDA."""
    cuda = labels.device.type == "cuda"

    def sample() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext(), use_seeds(range(len(labels))):
            return module.generate(labels, use_ema=False)

    return sample


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, repeats=15)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="Heun steps; 50 on CUDA, 10 on a CPU")
    parser.add_argument("--eager", action="store_true", help="do not compile our blocks on CUDA")
    args = parser.parse_args()
    # As `jitflow` does; the release benefits too.
    keep_freed_memory()
    kind = args.device.split(":")[0]
    case, steps = CASES[kind]
    steps = args.steps or steps
    if args.batch is not None:
        case = Case(case.model, case.img_size, case.num_classes, args.batch)
    report = Report(device=args.device, out=args.out)
    settings: dict[str, Any] = {"compile": kind == "cuda" and not args.eager}
    labels = (torch.arange(case.batch) % case.num_classes).to(args.device)

    ours, plain, two = (
        make(c, case, steps, **settings).to(args.device) for c in (JiTLightningModule, WithoutTable, TwoPasses)
    )
    fast, direct, passes = (sampling_of(module, labels) for module in (ours, plain, two))
    # The whole network, as `jitflow sample --compile` does.
    whole = make(JiTLightningModule, case, steps).to(args.device)
    whole.net.compile(dynamic=False, mode="reduce-overhead" if kind == "cuda" else None)
    functions = [fast, direct, passes, sampling_of(whole, labels)]
    if args.reference is not None:
        twin = release_twin(args.reference.resolve(), ours).eval()
        functions.append(lambda: _release_sample(twin, labels, kind))
    times = interleaved(functions, args.repeats, device=args.device, clock=args.clock)
    name = f"{case.name}, Heun {steps}"
    flops = forward_flops(ours.net) * passes_of_a_sample(steps) * case.batch / times[0] * 1000
    more: dict[str, Any] = {"images_per_sec": round(1000 * case.batch / times[0], 2), "clock": args.clock}
    peak = peak_flops(torch.device(args.device))
    if peak is not None:
        more["mfu"] = round(flops / peak, 3)
    more["profile_ours"] = time_by_kind(fast, repeats=1, device=args.device)
    if args.reference is not None:
        z, t = torch.randn(case.batch, 3, case.img_size, case.img_size, device=args.device), torch.tensor(0.5)
        v = ours._forward_sample(z, t, labels)
        v_release = twin._forward_sample(z, t.to(args.device).expand(case.batch).view(-1, 1, 1, 1), labels)
        more["profile_reference"] = time_by_kind(functions[-1], repeats=1, device=args.device)
        more["largest_difference"] = float(f"{(v - v_release).abs().max():.1e}")
    name = f"guided sampling, {name}"
    release = times[4] if len(times) > 4 else None
    report.add(f"{name}, ours / release", times[0], release, "ms", **more)
    compiled = {"clock": args.clock, "profile_ours": time_by_kind(functions[3], repeats=1, device=args.device)}
    compiled |= {key: value for key, value in more.items() if key == "profile_reference"}
    report.add(f"{name}, ours compiled / release", times[3], release, "ms", **compiled)
    same = {"clock": args.clock, "largest_difference": float(f"{(fast() - direct()).abs().max():.1e}")}
    report.add(f"{name}, modulations in a table / computed each time", times[0], times[1], "ms", **same)
    same["largest_difference"] = float(f"{(direct() - passes()).abs().max():.1e}")
    report.add(f"{name}, batched in interval / two passes", times[1], times[2], "ms", **same)
    if args.reference is not None:
        # According to bench_solvers.py, these 30 evaluations have the error of those 99.
        fewer = make(JiTLightningModule, case, 30, sampling_method="multistep", **settings).to(args.device)
        fewer.time_shift = 0.5
        twin.steps = 50
        functions = [sampling_of(fewer, labels), lambda: _release_sample(twin, labels, kind)]
        times = interleaved(functions, max(1, args.repeats // 2), device=args.device, clock=args.clock)
        name = f"guided sampling of one quality, {case.name}, multistep 30 / release, Heun 50"
        report.add(name, *times, "ms", clock=args.clock)
    print(f"rows are in {report.out}")


def _release_sample(twin: Any, labels: torch.Tensor, kind: str) -> torch.Tensor:
    with torch.autocast(kind, torch.bfloat16) if kind == "cuda" else nullcontext():
        return twin.generate(labels)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
