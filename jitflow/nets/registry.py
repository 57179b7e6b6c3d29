"""Registry of named networks and their sizes."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from jitflow.errors import ConfigError, unknown_name
from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT


@dataclass(frozen=True)
class Variant:
    """A named configuration of an architecture.

    Attributes:
        build: The network's class.
        settings: Its keyword arguments, image size included.
        note: Origin of the variant.
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
        # The release sets this for all of its variants.
        "in_context_start": depth // 3,
    }
    return Variant(JiT, settings, note)


def _lightningdit(depth: int, width: int, heads: int, patch: int, note: str) -> Variant:
    settings = {
        "input_size": 16,
        "patch_size": patch,
        "in_channels": 32,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
        # The flags of all published networks; the class itself defaults to a plain DiT.
        "use_swiglu": True,
        "use_rope": True,
        "use_rmsnorm": True,
    }
    return Variant(LightningDiT, settings, f"{note}, latents")


_RELEASE = "JiT release"
_LATENT_RELEASE = "LightningDiT release"
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
    # Large patches, so that latents of 16 x 16 positions make 16 tokens: trains in minutes on two CPU cores.
    "LightningDiT-N/4": _lightningdit(6, 256, 8, 4, f"{_OURS}, for CPU"),
    "LightningDiT-S/1": _lightningdit(12, 384, 6, 1, _OURS),
    "LightningDiT-S/2": _lightningdit(12, 384, 6, 2, _OURS),
    "LightningDiT-B/1": _lightningdit(12, 768, 12, 1, _LATENT_RELEASE),
    "LightningDiT-B/2": _lightningdit(12, 768, 12, 2, _LATENT_RELEASE),
    "LightningDiT-L/2": _lightningdit(24, 1024, 16, 2, _LATENT_RELEASE),
    "LightningDiT-XL/1": _lightningdit(28, 1152, 16, 1, _LATENT_RELEASE),
    "LightningDiT-XL/2": _lightningdit(28, 1152, 16, 2, _LATENT_RELEASE),
    "LightningDiT-1p0B/1": _lightningdit(24, 1536, 24, 1, _LATENT_RELEASE),
    "LightningDiT-1p0B/2": _lightningdit(24, 1536, 24, 2, _LATENT_RELEASE),
    "LightningDiT-1p6B/1": _lightningdit(28, 1792, 28, 1, _LATENT_RELEASE),
    "LightningDiT-1p6B/2": _lightningdit(28, 1792, 28, 2, _LATENT_RELEASE),
}


def list_models(pattern: str = "*") -> list[str]:
    """List the names of all models for :func:`create_model`.

    Args:
        pattern: Shell-style pattern, case-insensitive, such as ``"jit-b*"``.

    Returns:
        Names, by size within a family.
    """
    return [name for name in _VARIANTS if fnmatch.fnmatch(name.lower(), pattern.lower())]


# Architectures without default sizes, for networks that are not a named variant; not listed.
_ARCHITECTURES = {
    "JiT": Variant(JiT, note="every size given"),
    "LightningDiT": Variant(LightningDiT, note="every size given"),
}


def get_variant(name: str) -> Variant:
    """Return a variant or bare architecture by name; raise ConfigError with the nearest names if it is unknown."""
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    if name not in _VARIANTS:
        raise unknown_name("model", name, _VARIANTS, hint="`jitflow models` lists all.")
    return _VARIANTS[name]


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Build a network by name, with newly initialised weights.

    Args:
        name: One of :func:`list_models`.
        overrides: Keyword arguments of the network that override the variant's, such as ``img_size``.

    Returns:
        The network, in training mode.

    Raises:
        ConfigError: If the name is unknown or the sizes are inconsistent.
    """
    variant = get_variant(name)
    try:
        return variant.build(**{**variant.settings, **overrides})
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None
