"""Parity of the compiled network in half precision with float32: how far outputs and gradients of a batch are apart.

Run: ``python benchmarks/bench_parity.py``. The eager network in bf16, without our kernels, shows what rounding
alone makes. Ends with an error if the compiled network's difference is more than twice that one's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from _timing import Report, add_output_options, add_row_options, exact_float32, prepare
from _training import training_batch
from _turns import wait_for_turn, warm_up
from _variants import (
    BASE,
    BASE_ON_CPU,
    OURS_ON_CUDA,
    TINY,
    VARIANTS,
    Case,
    build_ours,
    formulas_of,
    label_of,
    report_missing,
)
from torch import Tensor, nn

# The step's own rounding differs between two right programs; a wrong one differs by far more.
_MOST = 2.0
_SLACK = 1e-5


def run(net: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], target: Tensor, *, half: bool) -> list[Tensor]:
    """Run a network and its backward pass.

    Args:
        net: The network; it has no gradients afterwards.
        inputs: Image ``(B, C, H, W)``, time ``(B,)`` and label ``(B,)``.
        target: Shape of the image; the loss is the squared distance to it.
        half: Whether to run it under bf16 autocast.

    Returns:
        The output and the gradients of all trained parameters, float32.
    """
    device = target.device.type
    with torch.autocast(device, torch.bfloat16) if half else nullcontext():
        output = net(*inputs).float()
    (output - target).square().mean().backward()
    trained = [p for p in net.parameters() if p.requires_grad]
    found = [output.detach(), *(p.grad.float() if p.grad is not None else torch.zeros_like(p) for p in trained)]
    net.zero_grad()
    return found


def relative_distance(values: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return ``|values - exact| / |exact|`` over all tensors together."""
    distance = sum((a - b).double().square().sum() for a, b in zip(values, exact, strict=True))
    size = sum(b.double().square().sum() for b in exact)
    return float((torch.as_tensor(distance) / torch.as_tensor(size)).sqrt())


def bench(case: Case, variant: str, report: Report, device: str) -> None:
    """Compare a variant of a case with float32; exit with an error if they are too far apart."""
    images, labels = training_batch(case, device)
    # By itself, the network of a step that is compiled with its loss is not compiled.
    whole = {"compile": "network"} if VARIANTS[variant]["compile"] == "loss" else {}
    compiled, eager = build_ours(case, variant, device, **whole).net, build_ours(case, "eager", device).net
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(images.shape, generator=generator).to(device)
    inputs = (x, torch.rand(case.batch, generator=generator).to(device), labels)
    target = images.float() / 127.5 - 1
    with formulas_of(variant):
        warm_up(lambda: run(compiled, inputs, target, half=True))
    # The exact network needs twice the memory.
    wait_for_turn()
    with formulas_of("plain"):
        with exact_float32():
            exact = run(eager, inputs, target, half=False)
        rounded = run(eager, inputs, target, half=True)
    with formulas_of(variant):
        ours = run(compiled, inputs, target, half=True)
    far = []
    for what, part in (("output", slice(0, 1)), ("gradient", slice(1, None))):
        own, rounding = relative_distance(ours[part], exact[part]), relative_distance(rounded[part], exact[part])
        name = f"distance of the {what} to float32, {case.name}, {label_of(variant)} bf16 / eager bf16"
        report.add(name, own, rounding, "relative")
        # A distance that is not a number is too far, too.
        if not own <= _MOST * rounding + _SLACK:
            far.append(f"{what} {own:.2g} instead of {rounding:.2g}")
    if far:
        sys.exit(f"the compiled network is too far from float32: {', '.join(far)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_options(parser)
    add_row_options(parser, list(VARIANTS))
    args = parser.parse_args(argv)
    prepare(args)
    report = Report(device=args.device, out=args.out)
    case = TINY if args.tiny else BASE if args.device.startswith("cuda") else BASE_ON_CPU
    for variant in args.row or [OURS_ON_CUDA]:
        with report_missing(variant):
            bench(case, variant, report, args.device)


if __name__ == "__main__":
    main()
