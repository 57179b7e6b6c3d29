"""Profile of a training step or a sampling by kind of kernel, which shows how far a ratio can improve.

On a GPU the device's own times count: kernels as the card ran them, and the idle time between them. On a CPU the
operators' times do.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import jitflow

# On a CPU, by beginning of the operator's name; all others are elementwise or copies.
_CPU_KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution", "aten::convolution_back"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention"),
}
_REST = "everything between"
# On a GPU, by part of the kernel's name, case ignored; the first match counts. Generated kernels come first, because
# they are named after operators; attention comes before the libraries of matrix products that it is made with.
_OURS, _GENERATED, _OTHER, IDLE = "our kernels", "generated", "other", "idle"
_GPU_KINDS = {
    _GENERATED: r"^triton_(?!tem|mm)",
    "attention": r"flash|fmha|sdpa|attention|attn",
    "matrix products": r"gemm|gemv|nvjet|cutlass|cublas|xmma|splitk|triton_tem|triton_mm|[wd]grad|convolve|scaled_mm",
    "optimiser and averages": r"multi_tensor|foreach|fusedadam|fused_adam|lerp",
    "copies": r"memcpy|memset|copy_kernel|copy_device|catarray",
}
_DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
_TRITON_KERNEL = re.compile(r"@triton\.jit[^\n]*\n(?:@[^\n]*\n)*def (\w+)")


@dataclass
class Profile:
    """Where the time of a function goes.

    Attributes:
        kinds: Milliseconds of one run by kind of kernel; on a GPU with the idle time.
        kernels: Every kernel with its count and milliseconds in one run, longest first.
    """

    kinds: dict[str, float]
    kernels: list[tuple[str, float, float]] = field(default_factory=list)

    def show(self, most: int = 25) -> str:
        """Format the kinds with their shares, and the longest kernels."""
        total = sum(self.kinds.values()) or 1.0
        lines = [f"{kind:<24} {ms:9.3f} ms {ms / total:6.1%}" for kind, ms in self.kinds.items()]
        lines += [f"{ms:9.3f} ms {count:7.1f} x  {name[:110]}" for name, count, ms in self.kernels[:most]]
        return "\n".join(lines)


def time_by_kind(function: Callable[[], object], *, repeats: int = 5, device: str = "cpu") -> dict[str, float]:
    """Profile a function and return the milliseconds of one run by kind of kernel, see :func:`profile_function`."""
    found = profile_function(function, repeats=repeats, device=device)
    return {kind: round(ms, 1) for kind, ms in found.kinds.items()}


def profile_function(function: Callable[[], object], *, repeats: int = 5, device: str = "cpu") -> Profile:
    """Profile a function.

    Args:
        function: The function; it should have run before.
        repeats: Number of runs.
        device: Device whose time is counted.

    Returns:
        The profile of one run.
    """
    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(repeats):
            function()
        if cuda:
            torch.cuda.synchronize()
    if not cuda:
        return _profile_of_operators(profiled.key_averages(), repeats)
    with tempfile.TemporaryDirectory(prefix="jitflow-trace-") as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return profile_of_trace(events, repeats)


def profile_of_trace(events: Iterable[dict[str, Any]], repeats: int) -> Profile:
    """Sort the device's events of a trace by kind.

    Args:
        events: Events of a Chrome trace: ``cat``, ``name``, ``ts`` and ``dur`` in microseconds; only those of the
            device count.
        repeats: Runs in the trace.

    Returns:
        The profile of one run; times of kernels that run side by side count for each of them.
    """
    ours = our_kernels()
    kinds = dict.fromkeys((*_GPU_KINDS, _OURS, _OTHER, IDLE), 0.0)
    kernels: dict[str, list[float]] = {}
    spans = []
    for event in events:
        if event.get("cat") not in _DEVICE_CATEGORIES:
            continue
        name, duration = event["name"], float(event["dur"])
        kinds[kind_of_kernel(name, ours)] += duration
        counted = kernels.setdefault(name, [0.0, 0.0])
        counted[0] += 1
        counted[1] += duration
        spans.append((float(event["ts"]), float(event["ts"]) + duration))
    kinds[IDLE] = _idle(spans)
    per_run = 1 / (1000 * repeats)
    longest = sorted(kernels.items(), key=lambda item: -item[1][1])
    return Profile(
        {kind: microseconds * per_run for kind, microseconds in kinds.items()},
        [(name, count / repeats, microseconds * per_run) for name, (count, microseconds) in longest],
    )


def kind_of_kernel(name: str, ours: Iterable[str] = ()) -> str:
    """Return the kind of a GPU kernel.

    Args:
        name: Name of the kernel, as the profiler gives it.
        ours: Names of this library's own kernels.
    """
    if "jitflow" in name or any(re.match(rf"{own}(_\d+)*$", name) for own in ours):
        return _OURS
    lowered = name.lower()
    return next((kind for kind, parts in _GPU_KINDS.items() if re.search(parts, lowered)), _OTHER)


def our_kernels() -> set[str]:
    """Return the names of the Triton kernels in this library's source."""
    files = Path(jitflow.__file__).parent.rglob("*.py")
    return {name for path in files for name in _TRITON_KERNEL.findall(path.read_text(encoding="utf-8"))}


def _idle(spans: list[tuple[float, float]]) -> float:
    """Return the time between the first start and the last end in which no span is running."""
    idle, busy_until = 0.0, min((start for start, _ in spans), default=0.0)
    for start, end in sorted(spans):
        idle += max(0.0, start - busy_until)
        busy_until = max(busy_until, end)
    return idle


def _profile_of_operators(averages: Iterable[Any], repeats: int) -> Profile:
    kinds = dict.fromkeys((*_CPU_KINDS, _REST), 0.0)
    kernels = []
    for event in averages:
        kind = next((kind for kind, names in _CPU_KINDS.items() if event.key.startswith(names)), _REST)
        milliseconds = event.self_cpu_time_total / 1000 / repeats
        kinds[kind] += milliseconds
        kernels.append((event.key, event.count / repeats, milliseconds))
    return Profile(kinds, sorted(kernels, key=lambda kernel: -kernel[2]))
