"""Training step compared with the JiT release's, or one way of ours with another: same shapes, weights and precision.

Run: ``python benchmarks/bench_train.py --reference <checkout of the release>``; ``--row NAME`` for some rows only, each
of which stands alone. On a CPU two sizes: eager, with blocks compiled, and with the whole network compiled; on CUDA
JiT-B/16 at 256 px in bf16. A time is that of a step among many (``--steps``) between two synchronisations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _flops import check_formula
from _profile import time_by_kind
from _release import release_training_step, release_twin
from _timing import Report, add_common_options, autocast_on, interleaved, prepare
from _training import Side, allocated, describe_rate, our_training_step, training_batch
from _turns import wait_for_turn, warm_up
from _variants import (
    BASE,
    BASE_ON_CPU,
    HUGE,
    LARGE,
    NANO,
    OURS_ON_CUDA,
    TINY,
    VARIANTS,
    Case,
    NotAvailableError,
    build_on_meta,
    build_ours,
    label_of,
    report_missing,
)

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.ema import copy_parameters, update_ema_
from jitflow.training.optimizers import build_optimizer, parameter_groups


@dataclass(frozen=True)
class Row:
    """A training step to time.

    Attributes:
        case: The network and its sizes.
        variant: Way of ours, a name in ``VARIANTS``.
        against: Another way of ours to compare with; None compares with the release.
        in_turns: Whether the training states of both ways fit into memory together, to be timed in turns.
    """

    case: Case
    variant: str
    against: str | None = None
    in_turns: bool = True


STEPS = {
    "nano": Row(NANO, "eager"),
    "nano-blocks": Row(NANO, "blocks"),
    "nano-network": Row(NANO, "network"),
    "base-of-2": Row(BASE_ON_CPU, "eager"),
    "base-of-2-blocks": Row(BASE_ON_CPU, "blocks"),
    "base-of-2-network": Row(BASE_ON_CPU, "network"),
    "base": Row(BASE, OURS_ON_CUDA),
    "base-eager": Row(BASE, "eager"),
    "base-blocks": Row(BASE, "blocks"),
    "base-stream": Row(BASE, "bf16 stream", OURS_ON_CUDA),
    "base-plain": Row(BASE, OURS_ON_CUDA, "plain"),
    "large": Row(LARGE, "blocks"),
    "large-float8": Row(LARGE, "float8", "bf16 stream, blocks", in_turns=False),
    "huge": Row(HUGE, "blocks"),
    "huge-float8": Row(HUGE, "float8", "bf16 stream, blocks", in_turns=False),
}
DEFAULT_ROWS = {
    "cpu": [*(name for name in STEPS if name.split("-")[0] == "nano" or "of-2" in name), "adamw", "ema"],
    "cuda": ["base", "base-blocks", "base-stream", "base-plain", "adamw", "ema"],
}


def bench_step(row: Row, report: Report, args: argparse.Namespace) -> None:
    """Time the training step of a row, after checking that both sides compute the same."""
    device = args.device
    more: dict[str, Any] = {}
    module, ours = warm_up(lambda: _our_side(row.case, row.variant, args))
    sides = [ours]
    if args.reference is not None:
        release, difference = warm_up(lambda: _release_side(row.case, module, args))
        sides.append(release)
        more.update(largest_difference=difference, release="eager" if args.release_eager else "as it is")
    more["formula_over_count"] = round(check_formula(build_on_meta(row.case)), 4)
    times = _time(sides, args)
    more.update(_describe(row.case, sides, times, device))
    if not device.startswith("cuda"):
        for whose, side in zip(("ours", "reference"), sides, strict=False):
            more[f"profile_{whose}"] = time_by_kind(side.group(1), repeats=1 if args.tiny else 5, device=device)
    name = f"training step, {row.case.name}, {label_of(row.variant)} / release"
    report.add(name, times[0], times[1] if len(times) > 1 else None, "ms", clock=args.clock, **more)


def bench_variant(row: Row, report: Report, args: argparse.Namespace) -> None:
    """Time a way of ours against another, with the mean loss of the timed steps, which have the same random numbers."""
    assert row.against is not None
    other = row.against
    if row.in_turns:
        sides = [
            warm_up(lambda: _our_side(row.case, row.variant, args))[1],
            warm_up(lambda: _our_side(row.case, other, args, "reference_"))[1],
        ]
        times = _time(sides, args)
    else:
        sides, times = _time_apart(row, other, report, args)
    more = _describe(row.case, sides, times, args.device)
    more.update(loss=sides[0].mean_loss(), reference_loss=sides[1].mean_loss())
    name = f"training step, {row.case.name}, {label_of(row.variant)} / {label_of(other)}"
    report.add(name, *times, "ms", clock=args.clock, **more)


def _time_apart(
    row: Row, other: str, report: Report, args: argparse.Namespace
) -> tuple[tuple[Side, Side], tuple[float, float]]:
    """Time two ways whose training states do not fit together, and report the other way, which every device has."""
    missing = own = None
    reference = warm_up(lambda: _our_side(row.case, other, args, "reference_"))[1]
    reference.park()
    try:
        own = warm_up(lambda: _our_side(row.case, row.variant, args))[1]
        own.park()
    except NotAvailableError as error:
        missing = error
    wait_for_turn()
    reference_time = _time_parked(reference, args)
    more = {key.removeprefix("reference_"): value for key, value in reference.entries.items()}
    more.update(describe_rate(row.case, reference_time, args.device), loss=reference.mean_loss())
    name = f"training step, {row.case.name}, {label_of(other)} / release"
    report.add(name, reference_time, None, "ms", clock=args.clock, **more)
    if own is None:
        assert missing is not None
        raise missing
    return (own, reference), (_time_parked(own, args), reference_time)


def _our_side(case: Case, variant: str, args: argparse.Namespace, prefix: str = "") -> tuple[JiTLightningModule, Side]:
    """Build a way of ours, and run its first steps."""
    device, before = args.device, allocated(args.device)
    module, batch = build_ours(case, variant, device), training_batch(case, device)
    side = Side(module, lambda m: our_training_step(m, *batch, autocast_on(device), variant), device, before, prefix)
    return module, side


def _release_side(case: Case, ours: JiTLightningModule, args: argparse.Namespace) -> tuple[Side, float]:
    """Build the release with our weights, compare the outputs of both networks, and run its first steps."""
    device, before = args.device, allocated(args.device)
    batch, twin = training_batch(case, device), release_twin(args.reference.resolve(), ours)
    difference = _largest_difference(ours, twin, batch, device)

    def make_step(twin: Any) -> Callable[[], torch.Tensor]:
        return release_training_step(twin, *batch, autocast_on(device), eager=args.release_eager)

    return Side(twin, make_step, device, before, "reference_"), difference


def _time_parked(side: Side, args: argparse.Namespace) -> float:
    warm_up(side.resume)
    (milliseconds,) = _time([side], args)
    side.free()
    return milliseconds


def _time(sides: Sequence[Side], args: argparse.Namespace) -> list[float]:
    """Return the median milliseconds of a step on each side, in groups of steps, in turns."""
    groups: list[Callable[[], object]] = [side.group(args.steps) for side in sides]
    warm_ups = [side.warm_up for side in sides]
    found = interleaved(groups, args.repeats, device=args.device, clock=args.clock, warm_ups=warm_ups)
    return [milliseconds / args.steps for milliseconds in found]


def _describe(case: Case, sides: Sequence[Side], times: Sequence[float], device: str) -> dict[str, Any]:
    """Entries of a row: rates of ours, and the entries of both sides."""
    found = describe_rate(case, times[0], device)
    for side in sides:
        found.update(side.entries)
    return found


@torch.no_grad()
def _largest_difference(module: JiTLightningModule, twin: Any, batch: Any, device: str) -> float:
    """Compare the networks of both sides; uncompiled, since a compilation for this one call would cost a minute."""
    images, labels = batch
    few = slice(0, 8)
    x, t = torch.randn_like(images[few], dtype=torch.float32), torch.rand(len(labels[few]), device=device)
    with autocast_on(device), torch.compiler.set_stance("force_eager"):
        ours, theirs = module.net(x, t, labels[few]).float(), twin.net(x, t, labels[few]).float()
    return float(f"{(ours - theirs).abs().max():.1e}")


def bench_optimiser(report: Report, args: argparse.Namespace) -> None:
    """Time a step of AdamW over JiT-S/16 (33M parameters): fused against torch's default."""
    modules = [JiTLightningModule("JiT-S/16").to(args.device) for _ in range(2)]
    optimisers = [
        build_optimizer(parameter_groups(m, 0.0), learning_rate=1e-4, fused=fused)
        for m, fused in zip(modules, (True, False), strict=True)
    ]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    times = interleaved([o.step for o in optimisers], args.repeats, device=args.device, clock=args.clock)
    report.add("AdamW step, JiT-S/16, fused / default", *times, "ms", clock=args.clock)


def bench_ema(report: Report, args: argparse.Namespace) -> None:
    """Time an EMA update of JiT-S/16: this library's against the release's loop."""
    weights = dict(JiTLightningModule("JiT-S/16").to(args.device).named_parameters())
    averages, looped = copy_parameters(weights), copy_parameters(weights)

    @torch.no_grad()
    def loop() -> None:
        for name, parameter in weights.items():
            looped[name].mul_(0.9999).add_(parameter, alpha=1 - 0.9999)

    functions = [lambda: update_ema_(averages, weights, 0.9999), loop]
    times = interleaved(functions, args.repeats, device=args.device, clock=args.clock)
    report.add("EMA update, JiT-S/16, ours / loop", *times, "ms", clock=args.clock)


OTHERS = {"adamw": bench_optimiser, "ema": bench_ema}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, repeats=9, rows=[*STEPS, *OTHERS])
    parser.add_argument("--steps", type=int, help="steps between two synchronisations; 10 on CUDA, 1 on a CPU")
    parser.add_argument("--release_eager", action="store_true", help="the release without its compiled blocks")
    parser.add_argument("--model", default=None, help="only this network, with the next four options")
    parser.add_argument("--img_size", type=int, default=256)
    parser.add_argument("--num_classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--variant", choices=VARIANTS, default="eager")
    args = parser.parse_args(argv)
    prepare(args)
    args.steps = args.steps or (10 if args.device.startswith("cuda") else 1)
    report = Report(device=args.device, out=args.out)
    if args.model is not None:
        bench_step(Row(Case(args.model, args.img_size, args.num_classes, args.batch), args.variant), report, args)
        return
    for name in args.row or DEFAULT_ROWS[args.device.split(":")[0]]:
        with report_missing(name):
            if name in OTHERS:
                OTHERS[name](report, args)
                continue
            row = STEPS[name]
            if args.tiny:
                row = Row(TINY, row.variant, row.against, row.in_turns)
            (bench_step if row.against is None else bench_variant)(row, report, args)
    print(f"rows are in {report.out}")


if __name__ == "__main__":
    main()
