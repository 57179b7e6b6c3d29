"""JiT networks for text as colour: presets, and loading their weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jitflow.checkpoint.bare_weights import find_bare_weights
from jitflow.checkpoint.names import strip_wrappers
from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.io.files import load_checkpoint
from jitflow.nets.jit import JiT
from jitflow.nets.registry import get_variant, list_models
from jitflow.nets.weights import load_strictly, strip_prefix, summarise

log = logging.getLogger(__name__)

_SIZES = ("patch_size", "hidden_size", "depth", "num_heads", "bottleneck_dim")
# A parameter that every JiT has.
_ANCHOR = "x_embedder.proj1.weight"
# Sections of a file that hold the weights: the documented name first, then Lightning's and the JiT release's.
_SECTIONS = ("model_state_dict", "state_dict", "model")


def build_jit_model(
    model_name: str = "JiT-B/4", img_size: int | tuple[int, int] = 64, predict_clean: bool = True, **settings: Any
) -> JiT:
    """Build a JiT network for text as colour, with newly initialised weights.

    The blocks are those of the image networks. The differences are learned positions, rotary embedding along the text,
    no classes, no class tokens, and truncated-normal initialisation.

    Args:
        model_name: A JiT of ``jitflow models``, which determines the sizes.
        img_size: Side in pixels, or (height, width); divisible by the patch.
        predict_clean: Whether the network predicts the data; else the velocity. The network itself does not depend
            on it: it is stored as ``net.prediction`` for training and sampling.
        settings: Keyword arguments of :class:`~jitflow.nets.jit.JiT` that override the preset's, such as
            ``self_conditioning=True``, or ``use_rope=False`` for learned positions alone.

    Returns:
        The network, in training mode.

    Raises:
        ConfigError: If the name or a setting is unknown, or the sizes are inconsistent.
    """
    if model_name not in list_models("JiT-*"):
        raise unknown_name("model", model_name, list_models("JiT-*"), hint="`jitflow models 'JiT-*'` lists all.")
    variant = get_variant(model_name).settings
    preset = {
        **{name: variant[name] for name in _SIZES},
        "num_classes": 0,
        "in_context_len": 0,
        "positions": "learned",
        "rope_axes": "line",
        "init": "truncated_normal",
    }
    try:
        net = JiT(img_size=img_size, **{**preset, **settings})
    except TypeError as error:
        raise ConfigError(f"{model_name}: {error}") from None
    net.prediction = "data" if predict_clean else "velocity"
    return net


def load_pretrained_jit(
    model_name: str = "JiT-B/4",
    pretrained_path: str | Path | None = None,
    img_size: int | tuple[int, int] = 64,
    *,
    ema: int = 0,
    **settings: Any,
) -> JiT:
    """Build a JiT network for text as colour with pretrained weights.

    Args:
        model_name: As in :func:`build_jit_model`.
        pretrained_path: A checkpoint with ``model_state_dict``, or one of Lightning (``state_dict``) or of the JiT
            release's form (``model``); names with or without ``net.`` and ``module.``. None for newly initialised
            weights.
        img_size: As in :func:`build_jit_model`.
        ema: 1 or 2 for an average of the weights (``model_ema1``, ``model_ema2``), 0 for the weights themselves.
        settings: As in :func:`build_jit_model`, ``predict_clean`` included. Whether there is self-conditioning
            is read from the weights.

    Returns:
        The network, in training mode.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, has no such weights, or they do not fit; lists the names.
        ConfigError: As in :func:`build_jit_model`, and if ``ema`` is none of 0, 1, 2.
    """
    if ema not in (0, 1, 2):
        raise ConfigError(f"ema must be 0, 1 or 2; got {ema}")
    if pretrained_path is None:
        return build_jit_model(model_name, img_size, **settings)
    weights = _read_weights(pretrained_path, ema)
    has_hint = any(name.startswith("hint_embedder.") for name in weights)
    net = build_jit_model(model_name, img_size, **{"self_conditioning": has_hint, **settings})
    load_strictly(net, weights, source=pretrained_path)
    log.info("%s loaded from %s (%s)", model_name, pretrained_path, f"EMA {ema}" if ema else "weights")
    return net


def _read_weights(path: str | Path, ema: int) -> dict[str, Tensor]:
    content = load_checkpoint(path)
    section = next((name for name in _SECTIONS if isinstance(content.get(name), Mapping)), None)
    held = content.get(section) if section is not None else find_bare_weights(content)
    if held is None:
        raise CheckpointError(f"{path} has none of {', '.join(_SECTIONS)}; found: {summarise(content)}")
    weights = strip_prefix(strip_wrappers(held), _ANCHOR)
    if ema:
        average = content.get(f"model_ema{ema}")
        if not isinstance(average, Mapping):
            raise CheckpointError(f"{path} has no EMA {ema}; use ema=0 for the weights themselves")
        # An average may lack tensors that are never trained.
        weights |= strip_prefix(strip_wrappers(average), _ANCHOR)
    return weights
