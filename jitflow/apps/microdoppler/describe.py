"""Descriptions of spectrogram models, files of latents and stage records for ``jitflow info``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.condition_columns import condition_texts
from jitflow.apps.microdoppler.latent_file import CONDITIONS, FORMAT
from jitflow.core.condition_table import ConditionTable
from jitflow.io.json_text import parse_json
from jitflow.training.application import Description

# More users than this are counted, not listed.
_MAX_LISTED = 12
_RECORDS = {
    "record of a training (stage 2)": {"settings", "finished"},
    "record of generated pictures (stage 3)": {"asked", "settings", "images"},
    "evaluation of spectrograms": {"identity_accuracy", "num_generated"},
}
_EXTRACTION = "extraction.json"


def describe_model(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
    """Describe a model's users and latents from its module's settings and its file's additional state."""
    kept = extra.get("latents", {})
    users = [int(user) for user in kept.get("user_ids", [])]
    codec = kept.get("codec", {})
    inside = "inside this file" if "linear" in kept else "not in this file: name it with --vavae_path"
    return {
        "latents": "x".join(map(str, settings.get("latent_shape", (32, 16, 16)))),
        "users": f"{len(users)}: {_listed(users)}" if users else str(settings.get("num_users", "?")),
        **_describe_conditions(settings.get("conditions")),
        "codec": f"{codec['id']}, checksum {str(codec['checksum'])[:12]}, {inside}" if codec else "not recorded",
        **_describe_arrays(kept.get("arrays")),
    }


def _describe_arrays(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Describe the spectrogram arrays that latents were made from; nothing for pictures."""
    if record is None:
        return {}
    scale = ArrayScale.of_record(record)
    return {"arrays": f"{scale.size[0]} x {scale.size[1]} values, {scale.range_text()}"}


def _describe_conditions(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Describe the named conditions of a model or of latents; nothing for none."""
    table = ConditionTable.of_record(record)
    return {} if table is None else {"conditions": "; ".join(f"{n}: {t}" for n, t in condition_texts(table).items())}


def describe_file(path: Path, content: Mapping[str, Any]) -> Description | None:
    """Describe latents, the record of an extraction, or a record of the later stages.

    Args:
        path: The file, or the folder of an extraction.
        content: Its metadata or JSON; ``shapes`` of arrays by name.

    Returns:
        The description; None if it is something else.
    """
    if content.get("format") == FORMAT:
        return _describe_latents(path, content)
    if {"settings", "num_train", "latent_shape"} <= content.keys():
        return _describe_extraction(path, content)
    kind = next((kind for kind, marks in _RECORDS.items() if marks <= content.keys()), None)
    command = f"jitflow info {shlex.quote(str(path.parent))}"
    return None if kind is None else Description(kind, {}, [command])


def _describe_latents(path: Path, metadata: Mapping[str, Any]) -> Description:
    num, *shape = metadata["shapes"]["latents"]
    scaling = f", factor and shift {metadata['scaling']}" if "scaling" in metadata else ""
    facts = {
        "latents": f"{num} of {'x'.join(map(str, shape))}",
        "codec": f"{metadata.get('codec_id')}, checksum {metadata.get('codec_checksum', '')[:12]}{scaling}",
        "made from images": metadata.get("img_size", ""),
        **_describe_conditions(parse_json(metadata[CONDITIONS]) if CONDITIONS in metadata else None),
        **_describe_arrays(parse_json(metadata["arrays"]) if "arrays" in metadata else None),
    }
    return Description("latents of users (stage 1)", facts, [_train_command(path.parent)])


def _describe_extraction(path: Path, record: Mapping[str, Any]) -> Description:
    codec, psnr = record.get("codec", {}), record.get("psnr")
    decibels = psnr.get("mean_db") if isinstance(psnr, Mapping) else None
    facts = {
        "latents": f"{record.get('num_train')} to train on, {record.get('num_val')} to validate on",
        "shape": "x".join(map(str, record.get("latent_shape", []))),
        "users": _listed(list(record.get("user_ids", []))),
        "codec": f"{codec.get('id')}, checksum {str(codec.get('checksum'))[:12]}",
        "reconstruction": f"{decibels:.1f} dB PSNR" if isinstance(decibels, float) else "",
    }
    facts |= _describe_arrays(record.get("arrays"))
    folder = path if path.is_dir() else path.parent
    return Description("latents of users (stage 1)", {k: v for k, v in facts.items() if v}, [_train_command(folder)])


def _train_command(folder: Path) -> str:
    return f"jitflow microdoppler train --latent_dir {shlex.quote(str(folder))} --output_dir runs/microdoppler"


def _listed(users: list[int]) -> str:
    return ", ".join(map(str, users)) if len(users) <= _MAX_LISTED else f"{users[0]} to {users[-1]}"
