"""Infer the network of a set of weights from their shapes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jitflow.errors import CheckpointError
from jitflow.nets.jit import JiT
from jitflow.nets.registry import get_variant, list_models

log = logging.getLogger(__name__)

# Settings that distinguish variants; in_context_start does not appear in any shape.
_VISIBLE = ("patch_size", "hidden_size", "depth", "num_heads", "bottleneck_dim", "in_context_len")


def detect_jit(weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Infer the settings of a JiT network from its weights.

    Args:
        weights: State dict of the network, without a prefix.
        given: Known settings (``img_size``, ``in_context_start``), used if the shapes are ambiguous.

    Returns:
        ``model_name``, ``img_size``, ``num_classes``, ``in_channels``, and ``net_settings`` if the network is not a
            named variant.

    Raises:
        CheckpointError: If these are not the weights of a JiT, or a setting can neither be inferred nor was given.
    """
    try:
        bottleneck, in_channels, patch, _ = weights["x_embedder.proj1.weight"].shape
        _, tokens, width = weights["pos_embed"].shape
        rows = weights["y_embedder.embedding_table.weight"].shape[0]
        head_dim = weights["blocks.0.attn.q_norm.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"these are not the weights of a JiT network (no {error})") from None
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    context = weights.get("in_context_posemb")
    visible = dict(
        zip(
            _VISIBLE,
            (patch, width, depth, width // head_dim, bottleneck, 0 if context is None else context.shape[1]),
            strict=True,
        )
    )
    found: dict[str, Any] = {
        "img_size": _image_size(tokens, patch, given.get("img_size")),
        "num_classes": rows - 1,
        "in_channels": in_channels,
    }
    named = [name for name in list_models() if _matches(name, visible)]
    if named:
        return {"model_name": named[0], **found}
    start = given.get("in_context_start")
    if start is None:
        start = depth // 3
        if context is not None:
            log.warning(
                "no shape shows where the in-context tokens enter; block %d is assumed, a third of the depth as in "
                "every known variant (pass in_context_start if it was another)",
                start,
            )
    return {"model_name": "JiT", **found, "net_settings": {**visible, "in_context_start": start}}


def _matches(name: str, visible: dict[str, Any]) -> bool:
    variant = get_variant(name)
    return variant.build is JiT and all(variant.settings.get(key) == value for key, value in visible.items())


def _image_size(tokens: int, patch: int, given: Any) -> int | tuple[int, int]:
    if given is not None:
        height, width = (given, given) if isinstance(given, int) else given
        if (height // patch) * (width // patch) == tokens:
            return given if isinstance(given, int) else (height, width)
        raise CheckpointError(
            f"the weights are for {tokens} tokens of {patch} px, but the image size is given as {height}x{width}"
        )
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise CheckpointError(
            f"the weights are for {tokens} tokens, which is not a square number; pass img_size=(height, width)"
        )
    return side * patch
