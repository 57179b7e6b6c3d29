"""Descriptions of text models and their records for ``jitflow info``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jitflow.apps.text.tokenizer import tokenizer_from_json
from jitflow.training.application import Description

_RECORDS = {
    "record of written texts": {"settings", "samples"},
    "evaluation of a model of text": {"held_out", "recovery"},
}


def describe_model(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
    """Describe a text model's tokenizer and image from its module's settings and its file's additional state."""
    tokenizer = tokenizer_from_json(str(settings["tokenizer"]))
    size = settings.get("img_size", 64)
    return {
        "images": f"{size}x{size}, colours are tokens",
        "tokenizer": f"{tokenizer.name}, {tokenizer.vocab_size} tokens",
        "mapping": f"{settings.get('mapping', 'codebook')} (seed {settings.get('codebook_seed', 0)})",
    }


def describe_file(path: Path, content: Mapping[str, Any]) -> Description | None:
    """Describe a record of sampled or evaluated texts by its entries; None if it is something else."""
    kind = next((kind for kind, marks in _RECORDS.items() if marks <= content.keys()), None)
    command = f"jitflow info {shlex.quote(str(path.parent))}"
    return None if kind is None else Description(kind, {}, [command])
