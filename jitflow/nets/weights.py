"""Load weights into a network strictly: all of them or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from jitflow.errors import CheckpointError

_NAMES_SHOWN = 4


def load_strictly(net: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Load a state dict whose names and shapes must all match the network's; otherwise nothing is loaded.

    Args:
        net: The network.
        weights: Its state dict.
        source: Origin of the weights, for the error message.

    Raises:
        CheckpointError: If a name is missing or unexpected, or a shape differs; the message names them.
    """
    check_weights(net, weights, source)
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"{source} does not fit this {type(net).__name__}; {'; '.join(reasons)}") from None


def check_weights(net: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Check that the names and shapes of a state dict all match a network's, which may be on the meta device.

    Args:
        net: The network.
        weights: The state dict; entries that are no tensors are ignored.
        source: Origin of the weights, for the error message.

    Raises:
        CheckpointError: If a name is missing or unexpected, or a shape differs; the message names them.
    """
    own = net.state_dict()
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
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


def shorten(names: Collection[str]) -> str:
    """Shorten a list of parameter names for a message, such as ``a, b and 7 more``."""
    shown = ", ".join(list(names)[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def summarise(values: Mapping[str, Any], *, limit: int = 8) -> str:
    """Summarise the tensors and sections of a checkpoint for a message, grouped by the first part of their names.

    Args:
        values: The dictionary: tensors, or sections that contain them.
        limit: Number of groups to name.

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
    """Remove a wrapper's prefix (``module.``, ``_orig_mod.``, ``first_stage_model.``, ...) from parameter names.

    Args:
        weights: Named values.
        anchor: A parameter name that the network always has.

    Returns:
        The values below the shortest prefix that leads to the anchor, without that prefix; others are dropped. The
        values unchanged if the anchor has no prefix.
    """
    prefixes = [name.removesuffix(anchor) for name in weights if name == anchor or name.endswith(f".{anchor}")]
    prefix = min(prefixes, key=len, default="")
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
