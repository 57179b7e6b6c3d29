"""Exponential moving averages of parameters, kept by name in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jitflow.errors import ConfigError


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

    Parameters are brought to where their averages are. On an accelerator one call for each device and dtype instead of
    one for each parameter; on a CPU a loop, which still finds each average in the cache for its second operation. Both
    give the same bits.

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
        theirs.append(p.detach().to(average.device))
    for (device, dtype), (ours, theirs) in groups.items():
        ends = theirs if dtype == torch.float32 else [p.float() for p in theirs]
        # The release's order of operations, to the last bit; a lerp would round differently.
        if device.type == "cpu":
            for average, end in zip(ours, ends, strict=True):
                average.mul_(decay).add_(end, alpha=1 - decay)
        else:
            update_together_(ours, ends, decay)


@torch.no_grad()
def update_together_(averages: list[Tensor], ends: list[Tensor], decay: float) -> None:
    """Move averages towards tensors in place, two calls for all of them.

    Args:
        averages: Averages of one device, float32.
        ends: As many tensors of the same shapes, float32.
        decay: Share of the old average that stays.
    """
    torch._foreach_mul_(averages, decay)
    torch._foreach_add_(averages, ends, alpha=1 - decay)
