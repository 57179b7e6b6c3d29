"""Profile of a training step by kind of kernel, which shows how far a ratio can improve."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

# By prefix of the kernel's name; the first match counts. All other kernels are elementwise or copies.
_KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution", "aten::convolution_back"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention"),
}
_REST = "everything between"


def time_by_kind(function: Callable[[], object], *, repeats: int = 5, device: str = "cpu") -> dict[str, float]:
    """Profile a function.

    Args:
        function: The function; it should have run before.
        repeats: Number of runs.
        device: Device whose time is counted.

    Returns:
        Milliseconds of one run, by kind of kernel.
    """
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        for _ in range(repeats):
            function()
    spent = dict.fromkeys((*_KINDS, _REST), 0.0)
    for event in profiled.key_averages():
        kind = next((kind for kind, names in _KINDS.items() if event.key.startswith(names)), _REST)
        spent[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return {kind: round(microseconds / 1000 / repeats, 1) for kind, microseconds in spent.items()}
