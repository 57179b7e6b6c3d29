"""Descriptions for ``jitflow info`` of text models and of records of their samples and evaluations."""

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
    """Describe a model's tokenizer and image, from the settings of its module and the rest of its checkpoint."""
    tokenizer = tokenizer_from_json(str(settings["tokenizer"]))
    size = settings.get("img_size", 64)
    return {
        "images": f"{size}x{size}, colours are tokens",
        "tokenizer": f"{tokenizer.name}, {tokenizer.vocab_size} tokens",
        "mapping": f"{settings.get('mapping', 'codebook')} (seed {settings.get('codebook_seed', 0)})",
    }


def describe_file(path: Path, content: Mapping[str, Any]) -> Description | None:
    """Describe a record of written or judged texts by its entries; None if it is something else."""
    kind = next((kind for kind, marks in _RECORDS.items() if marks <= content.keys()), None)
    command = f"jitflow info {shlex.quote(str(path.parent))}"
    return None if kind is None else Description(kind, {}, [command])
