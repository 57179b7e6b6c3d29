"""Putting weights from a file into a network, all of them or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from jitflow.errors import CheckpointError

_NAMES_SHOWN = 4


def load_strictly(net: nn.Module, weights: Mapping[str, Tensor], *, source: object) -> None:
    """Load weights that must fit exactly; nothing is loaded if a name or a shape does not.

    Args:
        net: The network.
        weights: Its state dict.
        source: Where the weights come from, for the message.

    Raises:
        CheckpointError: If a name is missing or not the network's, or a shape differs; the message names them.
    """
    own = net.state_dict()
    missing = [name for name in own if name not in weights]
    foreign = [name for name in weights if name not in own]
    shapes = [
        f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    wrong = [
        f"{kind}: {shorten(names)}"
        for kind, names in (("missing", missing), ("not in the network", foreign), ("of another shape", shapes))
        if names
    ]
    if wrong:
        raise CheckpointError(f"{source} does not fit this {type(net).__name__}; {'; '.join(wrong)}")
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"{source} does not fit this {type(net).__name__}; {'; '.join(reasons)}") from None


def shorten(names: Collection[str]) -> str:
    """List the first names and count the rest, such as ``a, b and 7 more``."""
    shown = ", ".join(list(names)[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def summarise(values: Mapping[str, Any], *, limit: int = 8) -> str:
    """Say in a few words what a dictionary from a file holds, by the first part of its names.

    Args:
        values: What was read: tensors, or sections that hold them.
        limit: How many groups to name.

    Returns:
        Text such as ``blocks (36 tensors), model (a section of 51), epoch``.
    """
    tensors = Counter(str(name).split(".")[0] for name, value in values.items() if isinstance(value, Tensor))
    groups = [f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in tensors.most_common()]
    for name, value in values.items():
        if isinstance(value, Mapping):
            groups.append(f"{name} (a section of {len(value)})")
        elif not isinstance(value, Tensor):
            groups.append(str(name))
    if not groups:
        return "nothing"
    more = f" and {len(groups) - limit} more" if len(groups) > limit else ""
    return ", ".join(groups[:limit]) + more


def strip_prefix(weights: Mapping[str, Any], anchor: str) -> dict[str, Any]:
    """Drop what a wrapper put before the names (``module.``, ``_orig_mod.``, ``first_stage_model.``, ...).

    Args:
        weights: Named values.
        anchor: A name that the network certainly has.

    Returns:
        The values under the wrapper of the shortest prefix, without it; others are dropped. As given if the
        anchor is under no prefix at all.
    """
    prefixes = [name.removesuffix(anchor) for name in weights if name == anchor or name.endswith(f".{anchor}")]
    prefix = min(prefixes, key=len, default="")
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
