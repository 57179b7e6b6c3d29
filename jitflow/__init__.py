"""Flow-matching image Transformers, trained and sampled with PyTorch Lightning.

The names below are imported on first use, so that ``import jitflow`` and ``jitflow --help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from jitflow.applications import EXPORTS

__version__ = "0.1.0"

_LAZY = {
    "load": "jitflow.model",
    "create_model": "jitflow.nets.registry",
    "list_models": "jitflow.nets.registry",
    "FlowModule": "jitflow.training.module",
    "DigitsDataModule": "jitflow.data.digits",
    "create_default_callbacks": "jitflow.callbacks",
    **EXPORTS,
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'jitflow' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
