"""Exponential moving averages of parameters, kept by name in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from jitflow.errors import ConfigError

CACHED_VALUES = 2**18
"""Values of averages moved at once on a CPU, 1 MiB: with as much of weights they fit a core's cache of today."""


@torch.no_grad()
def copy_parameters(params: Mapping[str, Tensor], *, device: str | None = None) -> dict[str, Tensor]:
    """Copy parameters in float32, the start of an average.

    Half precision would stall: at decay 0.9999 an update is smaller than its rounding.

    Args:
        params: Parameters by name.
        device: Where the copies are; None for where the parameters are.
    """
    return {name: p.detach().to(device or p.device, torch.float32, copy=True) for name, p in params.items()}


@torch.no_grad()
def update_ema_(averages: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    """Move averages towards parameters in place: ``ema = decay * ema + (1 - decay) * p``.

    Parameters are brought to where their averages are, and moved in two calls for many of them, with the bits of a
    loop over each.

    Args:
        averages: Averages by parameter name, float32.
        params: Parameters by name; exactly the same names.
        decay: Share of the old average that stays, in ``[0, 1]``.

    Raises:
        ConfigError: If the names differ or ``decay`` is out of range.
    """
    if not 0 <= decay <= 1:
        raise ConfigError(f"an EMA decay must lie in [0, 1]; got {decay}")
    if averages.keys() != params.keys():
        odd = sorted(averages.keys() ^ params.keys())
        raise ConfigError(f"EMA and parameters differ in names: {', '.join(odd[:5])} ({len(odd)} in all)")
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for name, p in params.items():
        average = averages[name]
        ours, theirs = groups.setdefault((average.device, p.dtype), ([], []))
        ours.append(average)
        theirs.append(p if p.device == average.device else p.detach().to(average.device))
    for (_, dtype), (ours, theirs) in groups.items():
        update_together_(ours, theirs if dtype == torch.float32 else [p.float() for p in theirs], decay)


@torch.no_grad()
def update_together_(averages: list[Tensor], ends: list[Tensor], decay: float) -> None:
    """Move averages towards tensors in place.

    Two calls for all on an accelerator; on a CPU two for as many as its cache keeps between them.

    Args:
        averages: Averages of one device, float32.
        ends: As many tensors of the same shapes and device, float32.
        decay: Share of the old average that stays.
    """
    for part in _parts(averages, CACHED_VALUES if averages[0].device.type == "cpu" else None):
        # The release's order of operations, to the last bit; a lerp would round differently.
        torch._foreach_mul_(averages[part], decay)
        torch._foreach_add_(averages[part], ends[part], alpha=1 - decay)


def _parts(tensors: list[Tensor], numel: int | None) -> Iterator[slice]:
    """Cut a list where its tensors have reached ``numel`` numbers; None for one part."""
    start = size = 0
    for i, tensor in enumerate(tensors, 1):
        size += tensor.numel()
        if i == len(tensors) or (numel is not None and size >= numel):
            yield slice(start, i)
            start, size = i, 0
