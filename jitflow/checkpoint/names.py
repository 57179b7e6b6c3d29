"""Names of tensors in files, without what DistributedDataParallel, FSDP, compiling and checkpointing put into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from jitflow.errors import CheckpointError

NET_PREFIX = "net."
# Parts of a name that only a wrapper makes, wherever they stand.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# DistributedDataParallel's, which a network could also have by itself: only left out where every name has it.
_PARALLEL = "module."
# Names that every JiT has, and every LightningDiT.
_ANCHORS = ("x_embedder.proj1.weight", "x_embedder.proj.weight")
T = TypeVar("T")


def strip_wrappers(named: Mapping[str, T]) -> dict[str, T]:
    """Drop what wrappers put into the names of a state dict, nested in any way: ``_orig_mod.``, ``module.``.

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
    """Give the tensors of a network the names that they have in a module: those of wrappers gone, ``net.`` before them.

    Args:
        named: Values by name, of a module or of its network alone.
    """
    stripped = strip_wrappers(named)
    if any(anchor in stripped for anchor in _ANCHORS):
        return {NET_PREFIX + name: value for name, value in stripped.items()}
    return stripped
