"""Exponential moving averages of parameters, kept by name in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from jitflow.errors import ConfigError

CACHED_VALUES = 2**18
"""Elements of the averages updated at once on a CPU: 1 MiB, which together with the weights fits a core's cache."""


@torch.no_grad()
def copy_parameters(params: Mapping[str, Tensor], *, device: str | None = None) -> dict[str, Tensor]:
    """Copy parameters in float32, as the start of an average.

    Half precision would stall: at decay 0.9999 an update is smaller than its rounding.

    Args:
        params: Parameters by name.
        device: Device of the copies; None for the parameters' own.
    """
    return {name: p.detach().to(device or p.device, torch.float32, copy=True) for name, p in params.items()}


def warmed_up_decay(decay: float, num_updates: int) -> float:
    """Return the decay of an EMA in its warm-up: ``min(decay, (1 + n) / (10 + n))``.

    An average with a constant decay remembers the initial weights for thousands of steps; with this one it forgets them
    in a few and then grows to the length of ``decay``.

    Args:
        decay: Decay after the warm-up, in ``[0, 1]``.
        num_updates: Number ``n`` of the update, from 1.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


@torch.no_grad()
def update_ema_(averages: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    """Update exponential moving averages of parameters in place: ``ema = decay * ema + (1 - decay) * p``.

    Parameters are copied to the device of their averages and updated in few calls for many tensors; on a CPU the result
    is bit-equal to a loop over them.

    Args:
        averages: Averages by parameter name, float32.
        params: Parameters by name; exactly the same names.
        decay: Weight of the old average, in ``[0, 1]``.

    Raises:
        ConfigError: If the names differ or ``decay`` is out of range.
    """
    if not 0 <= decay <= 1:
        raise ConfigError(f"an EMA decay must lie in [0, 1]; got {decay}")
    if averages.keys() != params.keys():
        differing = sorted(averages.keys() ^ params.keys())
        raise ConfigError(f"EMA and parameters differ in names: {', '.join(differing[:5])} ({len(differing)} in total)")
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for name, p in params.items():
        average = averages[name]
        average_group, param_group = groups.setdefault((average.device, p.dtype), ([], []))
        average_group.append(average)
        param_group.append(p if p.device == average.device else p.detach().to(average.device))
    for (_, dtype), (average_group, param_group) in groups.items():
        update_together_(
            average_group, param_group if dtype == torch.float32 else [p.float() for p in param_group], decay
        )


@torch.no_grad()
def update_together_(averages: list[Tensor], targets: list[Tensor], decay: float) -> None:
    """Move averages towards tensors in place.

    An accelerator takes one call for all tensors; a CPU two for each group that fits its cache.

    Args:
        averages: Averages of one device, float32.
        targets: As many tensors of the same shapes and device, float32.
        decay: Weight of the old average.
    """
    if averages[0].device.type != "cpu":
        torch._foreach_lerp_(averages, targets, 1 - decay)
        return
    for part in _split_by_numel(averages, CACHED_VALUES):
        # The release's order of operations, to the last bit; a lerp, which passes over memory once, rounds differently.
        torch._foreach_mul_(averages[part], decay)
        torch._foreach_add_(averages[part], targets[part], alpha=1 - decay)


def _split_by_numel(tensors: list[Tensor], numel: int) -> Iterator[slice]:
    """Split a list of tensors into slices of about ``numel`` elements."""
    start = size = 0
    for i, tensor in enumerate(tensors, 1):
        size += tensor.numel()
        if i == len(tensors) or size >= numel:
            yield slice(start, i)
            start, size = i, 0
