"""Profile of a training step and of guided sampling by kind of kernel, with the longest kernels.

Run: ``python benchmarks/bench_profile.py``; ``--row NAME`` for one of them, ``--variant`` for another way of ours.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence

import torch
from _profile import profile_function
from _timing import Report, add_output_options, add_row_options, autocast_on, interleaved, prepare
from _training import our_training_step, training_batch
from _turns import wait_for_turn, warm_up
from _variants import BASE, BASE_ON_CPU, OURS_ON_CUDA, TINY, VARIANTS, Case, build_ours, label_of, report_missing
from bench_sample import make, sampling_of

from jitflow.apps.images.module import JiTLightningModule

_KERNELS_KEPT = 60
# Enough for several evaluations with guidance.
_SAMPLING_STEPS = 4


def training(case: Case, variant: str, device: str) -> tuple[str, Callable[[], object]]:
    """Return the name and the function of a training step, which has run."""
    module = build_ours(case, variant, device)
    step = our_training_step(module, *training_batch(case, device), autocast_on(device), variant)
    step()
    return f"profile of a training step, {case.name}, {label_of(variant)}", step


def sampling(case: Case, variant: str, device: str) -> tuple[str, Callable[[], object]]:
    """Return the name and the function of a sampling with few steps of the eager network, which has run."""
    labels = (torch.arange(case.batch // 2) % case.num_classes).to(device)
    function = sampling_of(make(JiTLightningModule, case, _SAMPLING_STEPS, device=device), labels)
    function()
    return f"profile of guided sampling, {case.model}, batch {len(labels)}, Heun {_SAMPLING_STEPS}", function


ROWS = {"train": training, "sample": sampling}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_options(parser)
    parser.add_argument("--variant", choices=VARIANTS, default=OURS_ON_CUDA, help="of the training step")
    parser.add_argument("--repeats", type=int, default=3, help="runs in the profile; 3")
    add_row_options(parser, list(ROWS))
    args = parser.parse_args(argv)
    prepare(args)
    report = Report(device=args.device, out=args.out)
    repeats = 1 if args.tiny else args.repeats
    case = TINY if args.tiny else BASE if args.device.startswith("cuda") else BASE_ON_CPU
    prepared = []
    for row in args.row or ROWS:
        with report_missing(row):
            prepared.append(warm_up(functools.partial(ROWS[row], case, args.variant, args.device)))
    wait_for_turn()
    for name, function in prepared:
        (milliseconds,) = interleaved([function], repeats, device=args.device)
        found = profile_function(function, repeats=repeats, device=args.device)
        kinds = {kind: round(ms, 3) for kind, ms in found.kinds.items()}
        kernels = [[kernel, round(n, 1), round(ms, 4)] for kernel, n, ms in found.kernels[:_KERNELS_KEPT]]
        report.add(name, milliseconds, None, "ms", kinds=kinds, kernels=kernels)
        print(found.show(), flush=True)


if __name__ == "__main__":
    main()
