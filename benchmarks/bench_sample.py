"""Sampling compared with the JiT release's, and fast paths with plain ones, in turns in one process.

Run: ``python benchmarks/bench_sample.py --reference <checkout of the release>``; ``--row NAME`` for some rows only,
each of which stands alone. Guidance acts in (0.1, 1.0). On a CPU the demo's network; on CUDA JiT-B/16 at 256 px in
bf16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from _profile import time_by_kind
from _release import release_samples, release_twin
from _timing import Report, add_common_options, autocast_on, exact_float32, interleaved, prepare
from _training import allocated, describe_rate, peak_mib
from _turns import warm_up
from _variants import NANO, TINY, Case, build_ours

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.guidance import guidance_weight
from jitflow.core.seeding import noise_from_seeds, use_seeds
from jitflow.core.times import time_grid
from jitflow.model import Model

CASES = {"cpu": (NANO, 10), "cuda": (Case("JiT-B/16", 256, 1000, 64), 50)}
GUIDANCE, INTERVAL = 2.9, (0.1, 1.0)
# Images whose samples are compared with the release's in float32, uncompiled.
_NUM_COMPARED = 4
# With and without guidance; many steps would hold up the benchmarks that prepare at the same time.
WARM_UP_STEPS = 4
Sample = Callable[[], torch.Tensor]


class WithoutTable(JiTLightningModule):
    """The plain loop: an overridden method makes the module compute every modulation when needed."""

    def _forward_sample(self, z: Any, t: Any, labels: Any) -> Any:
        return super()._forward_sample(z, t, labels)


class WithoutGraphs(JiTLightningModule):
    """On CUDA every kernel is launched by itself."""

    def _evaluation_graphs(self, *args: Any) -> None:
        return None


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


def make(
    kind: type[JiTLightningModule], case: Case, steps: int, variant: str = "eager", device: str = "cpu", **settings: Any
) -> JiTLightningModule:
    """Build a module for a case, with sampling set up and weights of the same seed."""
    sampling: dict[str, Any] = {"cfg_scale": GUIDANCE, "cfg_interval": INTERVAL, "num_sampling_steps": steps}
    return build_ours(case, variant, device, kind=kind, **sampling, **settings).eval()


def make_compiled(case: Case, steps: int, device: str) -> JiTLightningModule:
    """Build a module whose whole network is compiled for sampling, as ``jitflow sample --compile`` does."""
    module = make(JiTLightningModule, case, steps, device=device)
    Model(module).compile()
    return module


def shortened(sample: Sample, owner: Any, steps: str) -> Sample:
    """Shorten a sampling to the few steps of a warm-up.

    Args:
        sample: Function that samples.
        owner: What it samples from.
        steps: Attribute of the owner with its number of steps.
    """

    def run() -> torch.Tensor:
        before = getattr(owner, steps)
        setattr(owner, steps, min(before, WARM_UP_STEPS))
        try:
            return sample()
        finally:
            setattr(owner, steps, before)

    return run


def passes_of_a_sample(steps: int) -> int:
    """Count the network passes of one guided image: Heun's evaluations, twice inside the guidance interval."""
    times = time_grid(steps)
    asked = torch.cat([times[:-1], times[1:-1]])
    return len(asked) + int((guidance_weight(asked, GUIDANCE, INTERVAL) != 1).sum())


def sampling_of(module: JiTLightningModule, labels: torch.Tensor) -> Sample:
    """Build a function that samples from a module as in practice: in bf16 on CUDA."""

    def sample() -> torch.Tensor:
        with autocast_on(labels.device.type), use_seeds(range(len(labels))):
            return module.generate(labels, use_ema=False)

    return sample


class Bench:
    """Rows of a case: every one builds what it needs, times both sides in turns, and writes itself.

    Args:
        case: The network and its batch.
        steps: Heun steps.
        args: Options of the command line.
        report: The rows' report.
    """

    def __init__(self, case: Case, steps: int, args: argparse.Namespace, report: Report) -> None:
        self.case, self.steps, self.args, self.report = case, steps, args, report
        self.device: str = args.device
        self.labels = self._labels_of(case)
        self.name = f"guided sampling, {case.name}, Heun {steps}"
        self.cuda = self.device.startswith("cuda")
        # How the rows that compare two loops of ours run the network.
        self.variant = "blocks" if self.cuda and not args.eager else "eager"

    def _labels_of(self, case: Case) -> torch.Tensor:
        return (torch.arange(case.batch) % case.num_classes).to(self.device)

    def plain(self) -> None:
        """Time our sampling, eager (on CUDA with our kernels), against the release's."""
        self._against_release(lambda: make(JiTLightningModule, self.case, self.steps, device=self.device), "ours")

    def compiled(self) -> None:
        """Time our sampling with the whole network compiled against the release's."""
        self._against_release(lambda: make_compiled(self.case, self.steps, self.device), "ours compiled")

    def table(self) -> None:
        """Time modulations in a table against those computed at each step."""
        self._ours(JiTLightningModule, WithoutTable, "modulations in a table / computed each time")

    def batched(self) -> None:
        """Time guidance in one batch, in its interval only, against two passes everywhere."""
        self._ours(WithoutTable, TwoPasses, "batched in interval / two passes")

    def graphs(self) -> None:
        """Time evaluations of a small network as CUDA graphs against kernels launched one by one, and compiled."""
        case = TINY if self.args.tiny else NANO
        labels, graphed = self._labels_of(case), make(JiTLightningModule, case, self.steps, device=self.device)
        others = {"without": make(WithoutGraphs, case, self.steps, device=self.device)}
        if self.cuda:
            others["graphs of the compiled network"] = make_compiled(case, self.steps, self.device)
        times = self._time([sampling_of(module, labels) for module in (graphed, *others.values())], self.args.repeats)
        for label, milliseconds in zip(others, times[1:], strict=True):
            name = f"guided sampling, {case.name}, Heun {self.steps}, CUDA graphs / {label}"
            self.report.add(name, times[0], milliseconds, "ms", clock=self.args.clock)

    def quality(self) -> None:
        """Time sampling of one quality: according to bench_solvers.py these 30 evaluations have the error of 99."""
        fewer = make(JiTLightningModule, self.case, 30, self.variant, self.device, sampling_method="multistep")
        fewer.time_shift = 0.5
        functions = [sampling_of(fewer, self.labels)]
        if self.args.reference is not None:
            twin = release_twin(self.args.reference.resolve(), fewer).eval()
            twin.method, twin.steps = "heun", 50
            functions.append(self._release_sampling(twin))
        times = self._time(functions, max(1, self.args.repeats // 2))
        name = f"guided sampling of one quality, {self.case.name}, multistep 30 / release, Heun 50"
        self.report.add(name, times[0], times[1] if len(times) > 1 else None, "ms", clock=self.args.clock)

    def _against_release(self, build: Callable[[], JiTLightningModule], label: str) -> None:
        functions, warm_ups, more = warm_up(lambda: self._sides(build))
        times = self._time(functions, self.args.repeats, warm_ups)
        more.update(describe_rate(self.case, times[0], self.device, passes=passes_of_a_sample(self.steps)))
        if not self.cuda:
            for whose, function in zip(("ours", "reference"), functions, strict=False):
                more[f"profile_{whose}"] = time_by_kind(function, repeats=1, device=self.device)
        reference = times[1] if len(times) > 1 else None
        self.report.add(f"{self.name}, {label} / release", times[0], reference, "ms", clock=self.args.clock, **more)

    def _sides(self, build: Callable[[], JiTLightningModule]) -> tuple[list[Sample], list[Sample], dict[str, Any]]:
        """Build our sampling and the release's, run short ones, and compare them.

        Returns:
            The functions to time, shorter ones, and entries of the row.
        """
        before, module = allocated(self.device), build()
        ours = sampling_of(module, self.labels)
        functions, warm_ups = [ours], [shortened(ours, module, "num_sampling_steps")]
        warm_ups[0]()
        more = peak_mib(warm_ups[0], self.device, before)
        if self.args.reference is not None:
            before = allocated(self.device)
            twin = release_twin(self.args.reference.resolve(), module).eval()
            functions.append(self._release_sampling(twin))
            warm_ups.append(shortened(functions[1], twin, "steps"))
            warm_ups[1]()
            more.update(peak_mib(warm_ups[1], self.device, before, prefix="reference_"))
            more["release"] = "eager" if self.args.release_eager else "as it is"
            more.update(self._differences(module, twin, warm_ups[0]))
        return functions, warm_ups, more

    def _differences(self, module: JiTLightningModule, twin: Any, ours: Sample) -> dict[str, float]:
        """Compare samples of few steps from the same noise: some in float32, uncompiled, and all as they are timed."""
        few = self.labels[:_NUM_COMPARED]
        noise = noise_from_seeds(module.codec.shape, range(self.case.batch), device=self.device)

        def exact_ours() -> torch.Tensor:
            with use_seeds(range(len(few))):
                return module.generate(few, use_ema=False)

        def release(num: int) -> torch.Tensor:
            samples = shortened(lambda: release_samples(twin, noise[:num], self.labels[:num]), twin, "steps")
            return samples().float()

        with torch.compiler.set_stance("force_eager"), exact_float32():
            exact, exact_release = shortened(exact_ours, module, "num_sampling_steps")(), release(_NUM_COMPARED)
        with autocast_on(self.device), self._release_stance():
            timed_release = release(self.case.batch)
        rms = (ours().float() - timed_release).square().mean().sqrt() / timed_release.square().mean().sqrt()
        return {
            "largest_difference": float(f"{(exact - exact_release).abs().max():.1e}"),
            "relative_difference_as_timed": float(f"{rms:.1e}"),
        }

    def _ours(self, kind: type[JiTLightningModule], plainer: type[JiTLightningModule], label: str) -> None:
        functions = [
            sampling_of(make(k, self.case, self.steps, self.variant, self.device), self.labels) for k in (kind, plainer)
        ]
        times = self._time(functions, self.args.repeats)
        same = float(f"{(functions[0]() - functions[1]()).abs().max():.1e}")
        self.report.add(f"{self.name}, {label}", *times, "ms", clock=self.args.clock, largest_difference=same)

    def _time(self, functions: Sequence[Sample], repeats: int, warm_ups: Sequence[Sample] | None = None) -> list[float]:
        return interleaved(functions, repeats, device=self.device, clock=self.args.clock, warm_ups=warm_ups)

    def _release_stance(self) -> AbstractContextManager[Any]:
        return torch.compiler.set_stance("force_eager") if self.args.release_eager else nullcontext()

    def _release_sampling(self, twin: Any) -> Sample:
        def sample() -> torch.Tensor:
            with autocast_on(self.device), self._release_stance():
                return twin.generate(self.labels)  # type: ignore[no-any-return]

        return sample


ROWS: dict[str, Callable[[Bench], None]] = {
    "plain": Bench.plain,
    "compiled": Bench.compiled,
    "table": Bench.table,
    "batched": Bench.batched,
    "graphs": Bench.graphs,
    "quality": Bench.quality,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, repeats=15, rows=list(ROWS))
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="Heun steps; 50 on CUDA, 10 on a CPU")
    parser.add_argument(
        "--eager", action="store_true", help="do not compile our blocks on CUDA in the rows that compare two of ours"
    )
    parser.add_argument("--release_eager", action="store_true", help="the release without its compiled blocks")
    args = parser.parse_args(argv)
    prepare(args)
    case, steps = (TINY, 3) if args.tiny else CASES[args.device.split(":")[0]]
    if args.batch is not None:
        case = Case(case.model, case.img_size, case.num_classes, args.batch)
    report = Report(device=args.device, out=args.out)
    bench = Bench(case, args.steps or steps, args, report)
    # Without the release, the last row has nothing to be compared with; without CUDA there are no graphs.
    without = [*([] if args.reference is not None else ["quality"]), *([] if bench.cuda else ["graphs"])]
    for name in args.row or [name for name in ROWS if name not in without]:
        ROWS[name](bench)
    print(f"rows are in {report.out}")


if __name__ == "__main__":
    main()
