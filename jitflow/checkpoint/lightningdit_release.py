"""Read checkpoints of the LightningDiT release (``model``, ``ema``, ``opt``, ``config``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jitflow.applications import RELEASES
from jitflow.checkpoint.names import NET_PREFIX, strip_wrappers
from jitflow.checkpoint.state import ModelState
from jitflow.errors import CheckpointError
from jitflow.nets.lightningdit import ANCHOR, LightningDiT, detect_lightningdit
from jitflow.nets.registry import get_variant, list_models
from jitflow.nets.weights import strip_prefix


def find_sections(content: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Find the state dicts of a LightningDiT in a checkpoint file's content.

    Args:
        content: The file's entries: sections, or a state dict alone.

    Returns:
        ``model`` and ``ema``, if present, without the prefixes of wrappers; empty for another kind of file.
    """
    sections = {name: content[name] for name in ("model", "ema") if isinstance(content.get(name), Mapping)}
    if not sections:
        sections = {"model": content}
    found = {
        name: strip_prefix(strip_wrappers({str(key): value for key, value in weights.items()}), ANCHOR)
        for name, weights in sections.items()
    }
    return {
        name: {key: value for key, value in weights.items() if isinstance(value, Tensor)}
        for name, weights in found.items()
        if ANCHOR in weights
    }


def from_lightningdit_release(sections: Mapping[str, dict[str, Tensor]], given: Mapping[str, Any]) -> ModelState:
    """Read a checkpoint of the LightningDiT release.

    Args:
        sections: Result of :func:`find_sections`.
        given: Settings that override the file's; ``latent_shape`` and ``num_heads`` if the shapes do not determine
            them.

    Returns:
        The model; if the file holds only the average, it serves as the weights too.

    Raises:
        CheckpointError: If a setting can neither be inferred nor was given.
    """
    weights = sections.get("model") or sections["ema"]
    prefixed = {name: {NET_PREFIX + key: v for key, v in section.items()} for name, section in sections.items()}
    return ModelState(
        settings={**settings_from_weights(weights, given), **{k: v for k, v in given.items() if k != "num_heads"}},
        weights=prefixed.get("model") or prefixed["ema"],
        ema1=prefixed.get("ema"),
        application=RELEASES["LightningDiT"],
    )


def settings_from_weights(weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Infer the arguments of a user-conditioned latent module from the weights of its network.

    Args:
        weights: State dict of the network, without a prefix.
        given: ``latent_shape`` and ``num_heads``, if the shapes do not determine them.

    Returns:
        ``model_name``, ``num_users``, ``latent_shape``, and ``net_settings`` if the network is not a named variant.

    Raises:
        CheckpointError: If a setting can neither be inferred nor was given.
    """
    shape = given.get("latent_shape")
    net = detect_lightningdit(
        weights, input_size=tuple(shape[1:]) if shape is not None else None, num_heads=given.get("num_heads")
    )
    size, channels, users = net.pop("input_size"), net.pop("in_channels"), net.pop("num_classes")
    if shape is not None and shape[0] != channels:
        raise CheckpointError(f"the weights are for {channels} latent channels, but latent_shape says {shape[0]}")
    height, width = (size, size) if isinstance(size, int) else size
    found: dict[str, Any] = {"num_users": users, "latent_shape": (channels, height, width)}
    named = [name for name in list_models() if _matches(name, net)]
    if named:
        return {"model_name": named[0], **found}
    return {"model_name": "LightningDiT", **found, "net_settings": net}


def _matches(name: str, net: Mapping[str, Any]) -> bool:
    variant = get_variant(name)
    defaults = {"mlp_ratio": 4.0, "learn_sigma": False, "use_qknorm": False, "wo_shift": False}
    settings = {**defaults, **variant.settings}
    return variant.build is LightningDiT and all(settings.get(key) == value for key, value in net.items())
