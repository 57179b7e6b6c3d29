"""Parameter names without the prefixes of DistributedDataParallel, FSDP, torch.compile and activation checkpointing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from jitflow.errors import CheckpointError

NET_PREFIX = "net."
# Parts of a name that only wrappers add, at any place.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Prefix of DistributedDataParallel; a network may have such a part itself, so it is only removed if all names have it.
_PARALLEL = "module."
# Parameter names of every JiT and of every LightningDiT.
_ANCHORS = ("x_embedder.proj1.weight", "x_embedder.proj.weight")
T = TypeVar("T")


def strip_wrappers(named: Mapping[str, T]) -> dict[str, T]:
    """Remove the prefixes of wrappers from the names of a state dict, also nested: ``_orig_mod.``, ``module.``.

    Args:
        named: Values by name.

    Returns:
        The values in the same order.

    Raises:
        CheckpointError: If two names become the same.
    """
    names = {name: ".".join(p for p in name.split(".") if p not in _WRAPPERS) for name in named}
    while names and all(name.startswith(_PARALLEL) for name in names.values()):
        names = {old: name.removeprefix(_PARALLEL) for old, name in names.items()}
    if len(set(names.values())) != len(names):
        raise CheckpointError("the state dict holds weights twice, with and without the prefix of a wrapper")
    return {names[old]: value for old, value in named.items()}


def module_names(named: Mapping[str, T]) -> dict[str, T]:
    """Rename the tensors of a network as in a module: without prefixes of wrappers, with ``net.`` in front.

    Args:
        named: Values by name, of a module or of its network alone.
    """
    stripped = strip_wrappers(named)
    if any(anchor in stripped for anchor in _ANCHORS):
        return {NET_PREFIX + name: value for name, value in stripped.items()}
    return stripped
