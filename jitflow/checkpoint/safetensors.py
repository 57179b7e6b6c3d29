"""Safetensors checkpoints: weights by the network's own names, with the module's settings in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from jitflow import __version__
from jitflow.checkpoint.bare_weights import from_bare_weights
from jitflow.checkpoint.names import NET_PREFIX, module_names
from jitflow.checkpoint.state import ModelState
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import atomic_path
from jitflow.io.json_text import parse_json
from jitflow.io.safetensors_file import read_tensors

_EXTRA = "extra."
# Prefix of the module's own parameters, as opposed to its network's.
_OWN = "module."
_AVERAGES = ("ema1.", "ema2.")
# JSON has no tuples.
_TUPLES = ("cfg_interval", "img_size", "latent_shape")


def write_safetensors(state: ModelState, path: Path, *, ema: int | str = 1) -> None:
    """Write weights and settings to a safetensors file, atomically.

    Args:
        state: The model.
        path: The file.
        ema: Weights to write, 1 or 2 for an average, 0 for the weights themselves, ``"all"`` for all of them.

    Raises:
        ConfigError: If ``ema`` is none of these.
        CheckpointError: If the model has no such average.
    """
    if ema == "all":
        tensors = dict(state.weights)
        for prefix, average in zip(_AVERAGES, (state.ema1, state.ema2), strict=True):
            tensors.update({prefix + name: value for name, value in (average or {}).items()})
    elif ema in (0, 1, 2, "0", "1", "2"):
        tensors = state.chosen(int(ema))
    else:
        raise ConfigError(f"ema must be 0, 1, 2 or all; got {ema!r}")
    network = {_name_in_file(name): value.detach().contiguous() for name, value in tensors.items()}
    plain, record = split_tensors(state.lasting_extra())
    metadata = {
        "format": "pt",
        "jitflow": __version__,
        "settings": _json(state.settings, "settings"),
        "weights": "all" if ema == "all" else ("weights", "ema1", "ema2")[int(ema)],
        "epoch": str(state.epoch),
        "step": str(state.step),
        "application": state.application,
        "module": state.module,
        "extra": _json(plain, "additional state"),
    }
    with atomic_path(path) as temporary:
        # Clones, since averages may share unchanged tensors with the weights.
        tensors = {**network, **{_EXTRA + name: value for name, value in record.items()}}
        save_file({name: value.clone() for name, value in tensors.items()}, temporary, metadata=metadata)


def _json(values: Mapping[str, Any], what: str) -> str:
    try:
        return json.dumps(values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the {what} of the checkpoint cannot be written as JSON ({error}); use .ckpt") from None


def read_safetensors(path: Path, given: Mapping[str, Any]) -> ModelState:
    """Read a safetensors file: one of this library, or the bare weights of a JiT or LightningDiT network.

    Args:
        path: The file.
        given: Settings that win over the file's.

    Returns:
        The model.

    Raises:
        CheckpointError: If it is damaged, or has no settings and is not one of these networks.
    """
    tensors, metadata = read_tensors(path)
    try:
        settings = parse_json(metadata.get("settings", "{}"))
        extra = parse_json(metadata.get("extra", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its settings cannot be read ({error})") from None
    if not isinstance(settings, dict) or not isinstance(extra, dict):
        raise CheckpointError(f"{path} is damaged: its settings are no values by name")
    record = {name.removeprefix(_EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)}
    if not settings:
        return _without_settings(tensors, path, given)
    weights, ema1, ema2 = _split_averages(tensors)
    for name in _TUPLES:
        if isinstance(settings.get(name), list):
            settings[name] = tuple(settings[name])
    return ModelState(
        {**settings, **{k: v for k, v in given.items() if k != "in_context_start"}},
        weights,
        # A file of a single average stores it as the weights.
        ema1=ema1 or (weights if metadata.get("weights") == "ema1" else None),
        ema2=ema2 or (weights if metadata.get("weights") == "ema2" else None),
        epoch=int(metadata.get("epoch", -1)),
        step=int(metadata.get("step", 0)),
        application=metadata.get("application", ""),
        module=metadata.get("module", ""),
        extra=join_tensors(extra, record),
    )


def _without_settings(tensors: Mapping[str, Tensor], path: Path, given: Mapping[str, Any]) -> ModelState:
    """Read a file of other code: bare weights, possibly with averages."""
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in ("", *_AVERAGES)}
    for name, value in tensors.items():
        parts[_average_of(name)][name.removeprefix(_average_of(name))] = value
    weights, ema1, ema2 = parts.values()
    state = from_bare_weights(weights or ema1, path, given)
    return replace(state, ema1=module_names(ema1) or state.ema1, ema2=module_names(ema2) or state.ema2)


def _name_in_file(name: str) -> str:
    """Return a tensor's name in a safetensors file: the prefix of the average, then the network's own name."""
    average = _average_of(name)
    rest = name.removeprefix(average)
    return average + (rest.removeprefix(NET_PREFIX) if rest.startswith(NET_PREFIX) else _OWN + rest)


def _split_averages(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Split a file's tensors into weights, first and second average, with the module's names."""
    parts: dict[str, dict[str, Tensor]] = {"": {}, **{prefix: {} for prefix in _AVERAGES}}
    for name, value in tensors.items():
        average = _average_of(name)
        rest = name.removeprefix(average)
        own = rest.startswith(_OWN)
        parts[average][rest.removeprefix(_OWN) if own else NET_PREFIX + rest.removeprefix(NET_PREFIX)] = value
    weights, ema1, ema2 = parts.values()
    return weights, ema1, ema2


def _average_of(name: str) -> str:
    """Return the prefix of a tensor's average; empty for the weights themselves."""
    return next((prefix for prefix in _AVERAGES if name.startswith(prefix)), "")


def split_tensors(extra: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split nested dictionaries into plain values and tensors, which are named ``outer.inner``."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in extra.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Mapping):
            plain[name], inner = split_tensors(value, f"{prefix}{name}.")
            tensors.update(inner)
        else:
            plain[name] = value
    return plain, tensors


def join_tensors(plain: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Merge the plain values and tensors that :func:`split_tensors` split."""
    for name, value in tensors.items():
        *outer, last = name.split(".")
        target = plain
        for key in outer:
            target = target.setdefault(key, {})
        target[last] = value
    return plain
