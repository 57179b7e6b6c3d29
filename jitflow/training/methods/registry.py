"""Loss terms by name: those of this library, and classes of other packages by their dotted names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from jitflow.errors import ConfigError, unknown_name
from jitflow.training.terms import LossModule, LossTerm

TERMS: dict[str, str] = {
    "class_head": "jitflow.training.methods.class_head:ClassHead",
    "consistency": "jitflow.training.methods.consistency:Consistency",
    "cosine": "jitflow.training.terms:CosineTerm",
    "dispersive": "jitflow.training.methods.dispersive:DispersiveLoss",
    "internal_guidance": "jitflow.training.methods.internal_guidance:InternalGuidance",
    "irepa": "jitflow.training.methods.irepa:IRepa",
    "perceptual": "jitflow.training.methods.perceptual:Perceptual",
    "pixel_repa": "jitflow.training.methods.pixel_repa:PixelRepa",
    "repa": "jitflow.training.methods.alignment:Repa",
}


def build_terms(given: Mapping[str, Any] | None) -> list[LossTerm]:
    """Build loss terms from settings.

    A class of another package must have been imported: settings may come from a file, which must not run code.

    Args:
        given: Arguments of each term by its name, or by the dotted name of its class; None for no terms.

    Returns:
        The terms, in order.

    Raises:
        ConfigError: If a name or an argument is unknown.
    """
    terms: list[LossTerm] = []
    for name, arguments in (given or {}).items():
        if not isinstance(arguments, Mapping | None):
            raise ConfigError(f"loss_terms.{name} must hold arguments by name, such as {{weight: 0.5}}")
        try:
            terms.append(_term_class(name)(**(arguments or {})))
        except TypeError as error:
            raise ConfigError(f"loss_terms.{name}: {error}") from None
    return terms


def sampling_terms(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the loss terms that sampling needs; classes of other packages are none.

    Args:
        given: Settings as for :func:`build_terms`.
    """
    known = {name: _term_class(name) for name in (given or {}) if name in TERMS}
    return {name: (given or {})[name] for name, cls in known.items() if _is_used(cls)} or None


def _is_used(cls: Any) -> bool:
    return issubclass(cls, LossModule) and cls.used_in_sampling


def _term_class(name: str) -> type[Any]:
    if name in TERMS:
        module, _, class_name = TERMS[name].partition(":")
        found: type[Any] = getattr(importlib.import_module(module), class_name)
        return found
    module, _, class_name = name.rpartition(".")
    if not module:
        raise unknown_name("loss term", name, TERMS)
    cls = getattr(sys.modules.get(module), class_name, None)
    if cls is None:
        raise ConfigError(f"loss_terms: there is no class {name}; import its module first")
    if not (isinstance(cls, type) and issubclass(cls, LossModule)):
        raise ConfigError(f"loss_terms: {name} is no LossModule")
    return cls
