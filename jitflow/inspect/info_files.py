"""Describe a file by its content: models, latents, codecs, statistics, records, images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jitflow.applications import BUILT_IN, get_application, load_object
from jitflow.codec.diffusers_folder import describe_autoencoder
from jitflow.codec.linear import FORMAT as LINEAR_FORMAT
from jitflow.data.folder_scan import SUFFIXES
from jitflow.data.image_file import UNREADABLE, decoder_of, reading_error
from jitflow.errors import ConfigError, JitflowError
from jitflow.evaluation.report import is_report, score_rows
from jitflow.inspect.info_model import describe_model_file
from jitflow.io.files import load_checkpoint, read_json
from jitflow.io.npz_file import npz_names, read_npz
from jitflow.io.safetensors_file import open_tensors
from jitflow.io.units import format_count
from jitflow.io.yaml_file import read_yaml

_VAE_FORMAT = "jitflow autoencoder_kl"
_SNAPSHOT_ENTRY = "jitflow_ema_snapshot"
_VAE_TENSOR = "decoder.conv_in.weight"
_MAX_LISTED = 8


@dataclass(frozen=True)
class Info:
    """Description of a file or folder: its kind, facts about it, and commands that use it.

    Attributes:
        path: The file or folder.
        kind: Kind of file, in a few words.
        facts: Facts about the content, by name.
        commands: Commands that use it, or create what is missing.
    """

    path: Path
    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


def describe_file(path: Path) -> Info:
    """Describe an existing file, such as a checkpoint; see :func:`jitflow.inspect.info.describe_path`."""
    readers = {
        ".safetensors": _safetensors,
        ".ckpt": _torch_file,
        ".pth": _torch_file,
        ".pt": _torch_file,
        ".npz": _npz,
        ".json": _json,
        ".part": _unfinished,
        **dict.fromkeys((".yaml", ".yml"), _yaml),
        **dict.fromkeys(SUFFIXES, _picture),
    }
    reader = readers.get(path.suffix.lower())
    if reader is not None:
        return reader(path)
    with path.open("rb") as file:
        start = file.read(16)
    known = ", ".join(readers)
    return Info(path, "unknown", {"begins with": repr(start), "known endings": known})


def ask_applications(path: Path, content: Mapping[str, Any]) -> Info | None:
    """Ask every built-in application to describe a file or folder; None if it belongs to none of them.

    Applications of other packages are only imported on request.
    """
    for name in BUILT_IN:
        describe = get_application(name).describe
        found = load_object(f"{describe}:describe_file")(path, content) if describe else None
        if found is not None:
            return Info(path, found.kind, dict(found.facts), list(found.commands))
    return None


def _safetensors(path: Path) -> Info:
    with open_tensors(path) as file:
        metadata, shapes = file.metadata, file.shapes
    kind = metadata.get("format", "")
    own = ask_applications(path, {**metadata, "shapes": shapes})
    if own is not None:
        return own
    if kind == LINEAR_FORMAT:
        components = next((shape for shape in shapes.values() if len(shape) == 2), ())
        facts = {"components": " x ".join(map(str, components)), "image size": metadata.get("img_size", "")}
        return Info(path, "linear codec of images", facts, [_extract_command(path)])
    if kind == _VAE_FORMAT:
        return Info(path, "VA-VAE (slim)", {"checksum": metadata.get("checksum", "")[:12]}, [_extract_command(path)])
    if _SNAPSHOT_ENTRY in metadata:
        command = f"jitflow sample {shlex.quote(str(path.parent.parent / 'checkpoints' / 'last.ckpt'))} --ema 0.1"
        return Info(path, "snapshot of an average of the weights", {"record": metadata[_SNAPSHOT_ENTRY]}, [command])
    if any(name.endswith(_VAE_TENSOR) for name in shapes):
        return Info(path, "VA-VAE", _tensor_facts(shapes), [_extract_command(path)])
    return _model_or_unknown(path, _tensor_facts(shapes))


def _torch_file(path: Path) -> Info:
    content = load_checkpoint(path)
    if set(content) == {"mean", "std"} and all(isinstance(v, Tensor) for v in content.values()):
        facts = {"channels": str(content["mean"].numel())}
        return Info(path, "statistics of latents", facts, [f"jitflow info {shlex.quote(str(path.parent))}"])
    tensors = content.get("state_dict", content)
    shapes = {name: tuple(v.shape) for name, v in tensors.items() if isinstance(v, Tensor)}
    if any(str(name).endswith(_VAE_TENSOR) for name in shapes):
        return Info(path, "VA-VAE", _tensor_facts(shapes), [_extract_command(path)])
    return _model_or_unknown(path, {"entries": listed([str(name) for name in content])})


def _model_or_unknown(path: Path, found: dict[str, str]) -> Info:
    try:
        return Info(path, *describe_model_file(path))
    except JitflowError as error:
        return Info(path, "tensors of unknown origin", {**found, "as a model": str(error)})


def _npz(path: Path) -> Info:
    names = npz_names(path)
    held = read_npz(path, leave_out=("features", "arr_0", "sigma"))
    if {"mu", "sigma"} <= set(names):
        facts = {name: str(value) for name, value in held.items() if value.ndim == 0}
        facts = {"features": str(held["mu"].shape[0]), **facts}
        command = f"jitflow evaluate CHECKPOINT --reference {shlex.quote(str(path))}"
        return Info(path, "reference statistics of real images", facts, [command])
    if "arr_0" in names:
        command = f"jitflow evaluate CHECKPOINT --reference {shlex.quote(str(path))}"
        return Info(path, "images for ADM's evaluator", {"arrays": ", ".join(names)}, [command])
    return Info(path, "arrays of unknown origin", {"arrays": listed(names)})


_JSON_KINDS: dict[frozenset[str], str] = {
    frozenset({"application", "recipe", "state"}): "record of a run",
    frozenset({"checkpoint", "guidance", "images"}): "record of generated images",
    frozenset({"jitflow", "torch", "command"}): "environment of a run",
    frozenset({"format", "version", "files"}): "sizes and checksums of checkpoints",
    frozenset({"card"}): "evaluation with its protocol card",
    frozenset({"metrics", "protocol"}): "report of an evaluation",
}


def _json(path: Path) -> Info:
    content = read_json(path)
    if not isinstance(content, dict):
        return Info(path, "JSON of unknown origin", {"holds": f"a {type(content).__name__} of {len(str(content))}"})
    own = ask_applications(path, content)
    if own is not None and own.facts:
        return own
    keys = frozenset(content)
    kind = own.kind if own is not None else ""
    kind = kind or next((kind for marks, kind in _JSON_KINDS.items() if marks <= keys), "JSON of unknown origin")
    if is_report(content):
        facts = {name: ", ".join(filter(None, cells)) for name, *cells in score_rows(content)}
        facts["checkpoint"] = str(content["protocol"].get("checkpoint"))
        return Info(path, kind, facts, [f"jitflow compare {shlex.quote(str(path))} OTHER"])
    facts = {name: _short(value) for name, value in list(content.items())[:_MAX_LISTED]}
    return Info(path, kind, facts, [f"jitflow info {shlex.quote(str(path.parent))}"])


def _yaml(path: Path) -> Info:
    content = read_yaml(path)
    if not isinstance(content, dict):
        return Info(path, "YAML of unknown origin", {"holds": f"a {type(content).__name__}"})
    facts = {name: _short(value) for name, value in list(content.items())[:_MAX_LISTED]}
    recipe = isinstance(content.get("model"), dict)
    commands = [f"jitflow train --config {shlex.quote(str(path))} --dry_run"] if recipe else []
    return Info(path, "recipe of a training" if recipe else "settings", facts, commands)


def _picture(path: Path) -> Info:
    try:
        with decoder_of(path) as image:
            width, height = image.size
            return Info(path, "image", {"width x height": f"{width} x {height}", "mode": image.mode})
    except UNREADABLE as error:
        raise ConfigError(f"{path} cannot be read as an image ({reading_error(error)}); replace it") from None


def _unfinished(path: Path) -> Info:
    whole = path.with_suffix("")
    facts = {"will be": str(whole), "remedy": "run the interrupted command again, which resumes it"}
    return Info(path, "unfinished file", facts)


def _extract_command(path: Path) -> str:
    return (
        f"jitflow microdoppler extract --data_dir FOLDER --output_path latent_features "
        f"--vavae_path {shlex.quote(str(path))}"
    )


def describe_autoencoder_folder(path: Path) -> Info:
    """Describe the folder of a diffusers autoencoder from its ``config.json``."""
    vae, _ = describe_autoencoder(path)
    factor, shift = vae.scaling
    facts = {
        "latents": f"{vae.embed_dim} channels, sides {vae.factor} times smaller",
        "scaling": f"(z - {shift:g}) * {factor:g}",
    }
    return Info(path, "autoencoder of diffusers", facts, [_extract_command(path)])


def _tensor_facts(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    return {"tensors": f"{len(shapes)} of {format_count(numbers)} numbers: {listed(list(shapes))}"}


def listed(names: list[str]) -> str:
    """Join the first names of arrays or entries, and count the rest."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
