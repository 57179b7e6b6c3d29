"""Precision of a network during sampling and evaluation: chosen from the device, applied by autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from jitflow.errors import ConfigError

AUTO = "auto"
_DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision that a word stands for on a device, for records and for :func:`autocast`.

    Args:
        precision: ``"32"``, ``"bf16"``, ``"16"``, or ``"auto"``: bf16 on a GPU that computes in bfloat16, else 32.
        device: Device of the network.

    Returns:
        ``"32"``, ``"bf16"`` or ``"16"``.

    Raises:
        ConfigError: If the word is another.
    """
    if precision == AUTO:
        # Older GPUs emulate bfloat16, which is slower than float32.
        is_native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if is_native else "32"
    if precision not in _DTYPES:
        raise ConfigError(f"precision must be one of {AUTO}, {', '.join(_DTYPES)}; got {precision!r}")
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products run in a precision; the weights and the state stay in float32.

    Args:
        precision: As :func:`resolve_precision` takes it.
        device: Device of the network.
    """
    resolved = resolve_precision(precision, device)
    return nullcontext() if resolved == "32" else torch.autocast(device.type, dtype=_DTYPES[resolved])
