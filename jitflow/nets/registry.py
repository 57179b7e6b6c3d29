"""Names of networks: what exists, at which size, and how to build it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from jitflow.errors import unknown_name
from jitflow.nets.jit import JiT


@dataclass(frozen=True)
class Variant:
    """A named configuration of an architecture.

    Attributes:
        build: The network's class.
        settings: Its keyword arguments, image size included.
        note: Where the variant comes from.
    """

    build: Callable[..., nn.Module]
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def _jit(depth: int, width: int, heads: int, bottleneck: int, patch: int, img_size: int, note: str) -> Variant:
    settings = {
        "img_size": img_size,
        "patch_size": patch,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
        "bottleneck_dim": bottleneck,
        "in_context_len": 32,
        # The release's rule in all of its variants.
        "in_context_start": depth // 3,
    }
    return Variant(JiT, settings, note)


_RELEASE = "JiT release"
_OURS = "ours"
_VARIANTS: dict[str, Variant] = {
    "JiT-B/16": _jit(12, 768, 12, 128, 16, 256, _RELEASE),
    "JiT-B/32": _jit(12, 768, 12, 128, 32, 512, _RELEASE),
    "JiT-L/16": _jit(24, 1024, 16, 128, 16, 256, _RELEASE),
    "JiT-L/32": _jit(24, 1024, 16, 128, 32, 512, _RELEASE),
    "JiT-H/16": _jit(32, 1280, 16, 256, 16, 256, _RELEASE),
    "JiT-H/32": _jit(32, 1280, 16, 256, 32, 512, _RELEASE),
    "JiT-B/4": _jit(12, 768, 12, 128, 4, 64, f"{_OURS}, 64 px"),
    "JiT-S/16": _jit(12, 384, 6, 128, 16, 256, _OURS),
    "JiT-S/4": _jit(12, 384, 6, 128, 4, 64, f"{_OURS}, 64 px"),
    "JiT-Ti/4": _jit(12, 192, 3, 64, 4, 32, f"{_OURS}, 32 px"),
    # Small enough to train in minutes on two CPU cores; its few image tokens need few class tokens.
    "JiT-N/4": Variant(
        JiT,
        {**_jit(4, 96, 3, 32, 4, 16, _OURS).settings, "in_context_len": 4},
        f"{_OURS}, for CPU",
    ),
}


def list_models(pattern: str = "*") -> list[str]:
    """List the names that :func:`create_model` knows.

    Args:
        pattern: Shell-style filter, upper and lower case alike, such as ``"jit-b*"``.

    Returns:
        Names in the order of size within a family.
    """
    return [name for name in _VARIANTS if fnmatch.fnmatch(name.lower(), pattern.lower())]


# Architectures without sizes of their own, for networks that are no named variant. Not listed.
_ARCHITECTURES = {"JiT": Variant(JiT, note="every size given")}


def get_variant(name: str) -> Variant:
    """Look a variant or a bare architecture up; raise ConfigError with the nearest names if there is none."""
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    if name not in _VARIANTS:
        raise unknown_name("model", name, _VARIANTS, hint="`jitflow models` lists all.")
    return _VARIANTS[name]


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Build a network by name, with fresh weights.

    Args:
        name: One of :func:`list_models`.
        overrides: Keyword arguments of the network that replace the variant's, such as ``img_size``.

    Returns:
        The network, in training mode.

    Raises:
        ConfigError: If the name is unknown or the sizes do not fit.
    """
    variant = get_variant(name)
    return variant.build(**{**variant.settings, **overrides})
