"""Checkpoint files that hold only a network's weights, of any format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jitflow.applications import RELEASES
from jitflow.checkpoint.lightningdit_release import find_sections, from_lightningdit_release
from jitflow.checkpoint.names import NET_PREFIX, module_names
from jitflow.checkpoint.state import ModelState
from jitflow.checkpoint.variant import detect_jit
from jitflow.errors import CheckpointError
from jitflow.nets.weights import shorten

_SECTIONS = ("model_state_dict", "state_dict")


def find_bare_weights(content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Find the state dict of a file that holds nothing else, or holds it under a usual name.

    Args:
        content: The file's entries.

    Returns:
        Its tensors; None if the file is of another kind.
    """
    for weights in (content, *(content.get(name) for name in _SECTIONS)):
        if isinstance(weights, Mapping) and weights and all(isinstance(v, Tensor) for v in weights.values()):
            return {str(name): value for name, value in weights.items()}
    return None


def from_bare_weights(tensors: Mapping[str, Tensor], path: Path, given: Mapping[str, Any]) -> ModelState:
    """Recognise a JiT or a LightningDiT by the names and shapes of its weights.

    Args:
        tensors: A state dict, with or without the prefixes of wrappers.
        path: Its file, for the message.
        given: Settings that override those read from the shapes, needed if the shapes are ambiguous.

    Raises:
        CheckpointError: If these are the weights of neither network, or a size can neither be read nor was given.
    """
    sections = find_sections(tensors)
    if sections:
        return from_lightningdit_release(sections, given)
    weights = module_names(tensors)
    network = {name.removeprefix(NET_PREFIX): value for name, value in weights.items()}
    try:
        found = detect_jit(network, given)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a known kind: {error}; it holds {shorten(tensors)}"
        ) from None
    settings = {**found, **{k: v for k, v in given.items() if k != "in_context_start"}}
    return ModelState(settings, weights, application=RELEASES["JiT"])
