"""Load a module from a checkpoint of any format, or initialise a module with its weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.applications import application_name
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.state import ModelState, application_of, errors_of_damage
from jitflow.errors import CheckpointError
from jitflow.training.ema_history import EMAHistory
from jitflow.training.methods.registry import sampling_terms
from jitflow.training.module import FlowModule
from jitflow.training.terms import TERMS_PREFIX

log = logging.getLogger(__name__)

# Image sizes and seeds may exceed the size of a tiny network.
_HARMLESS = 1 << 20
_LABEL_TABLE = "net.y_embedder.embedding_table.weight"
_CONDITIONS = "net.condition_embedder."


def load_module(
    path: str | Path,
    *,
    module_class: type[FlowModule] | None = None,
    **given: Any,
) -> FlowModule:
    """Rebuild a module from a checkpoint of any format: weights, averages, settings.

    Args:
        path: A ``.ckpt``, a ``.pth`` (ours or the JiT release's) or a ``.safetensors``.
        module_class: Class to build; by default that of the application in the file.
        given: Settings that override the file's.

    Returns:
        The module, in evaluation mode, on the CPU.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, its application is not installed, or its weights do not fit; lists the names.
        ConfigError: If its application's package is broken.
    """
    state = read_state(path, **given)
    if state.settings.get("loss_terms"):
        with errors_of_damage(path):
            state.settings["loss_terms"] = sampling_terms(state.settings["loss_terms"])
    if module_class is None:
        module_class = application_of(state, path, otherwise="pass module_class").module
        foreign = unknown_settings(state, module_class)
        if foreign:
            raise CheckpointError(
                f"{path} holds settings that {module_class.__qualname__} does not take ({', '.join(foreign)}); remove "
                "them from its hyper_parameters, or pass the class that takes them as module_class"
            )
        _check_size(module_class, state, path)
    # Empty for a class of another library; this library's own may have moved since.
    of_jitflow = application_name(state.module, default="")
    if state.module and not of_jitflow and state.module != f"{module_class.__module__}.{module_class.__qualname__}":
        log.warning(
            "%s was trained as %s and is loaded as %s; pass module_class to keep what that class overrides",
            path,
            state.module,
            module_class.__qualname__,
        )
    try:
        module = module_class(**state.settings)
    except TypeError as error:
        raise CheckpointError(
            f"{path} holds settings that {module_class.__qualname__} does not take ({error})"
        ) from None
    weights = _without_unused_terms(state.weights, module.state_dict())
    check_state_dict(module.state_dict(), weights, path)
    averages = {"model_ema1": state.ema1, "model_ema2": state.ema2}
    with errors_of_damage(path):
        module.load_state_dict(weights)
        held = {k: v for k, v in averages.items() if v is not None}
        module.on_load_checkpoint({"jitflow": state.extra, "global_step": state.step, **held})
    return module.eval()


def unknown_settings(state: ModelState, module_class: type[FlowModule]) -> list[str]:
    """List the settings of a checkpoint that a module class does not take; unknown ones that are null are dropped.

    Args:
        state: The model; its settings may lose some.
        module_class: The class that it is loaded as.
    """
    known: set[str] = set()
    for cls in module_class.__mro__:
        if cls is FlowModule:
            # Further keywords of its subclasses are the fields of the settings.
            known.update(f.name for f in fields(module_class.settings_class) if f.init)
            break
        if "__init__" in vars(cls):
            parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
            known.update(p.name for p in parameters)
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    unknown = [name for name in state.settings if name not in known]
    for name in unknown:
        if state.settings[name] is None:
            del state.settings[name]
    return [name for name in unknown if name in state.settings]


def _check_size(module_class: type[FlowModule], state: ModelState, path: str | Path) -> None:
    """Check the weights' size against the settings of a file, before these can allocate memory."""
    total = sum(value.numel() for value in state.weights.values())
    largest = max(_numbers(state.settings), default=0)
    if largest > max(total, _HARMLESS) or _depth(state.settings) > len(state.weights):
        raise CheckpointError(f"{path} is damaged: its settings describe a network that its weights do not fit")
    try:
        with errors_of_damage(path), torch.device("meta"):
            expected = module_class(**state.settings).state_dict()
    except CheckpointError as error:
        if isinstance(error.__cause__, TypeError):
            # The caller reports this error with the name of the class.
            return
        raise
    check_state_dict(expected, _without_unused_terms(state.weights, expected), path)


def _without_unused_terms(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without those of loss terms that a module does not have; only its training needs them."""
    return {name: v for name, v in weights.items() if name in expected or not name.startswith(TERMS_PREFIX)}


def _numbers(settings: object) -> Iterator[int]:
    """Yield every whole number in nested settings."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _numbers(value)
    elif isinstance(settings, int):
        yield settings


def _depth(settings: Mapping[str, Any]) -> int:
    net = settings.get("net_settings")
    depth = net.get("depth", 0) if isinstance(net, Mapping) else 0
    return depth if isinstance(depth, int) else 0


def check_state_dict(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise CheckpointError, listing names, unless two state dicts have the same names and shapes."""
    missing = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unknown", foreign), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"the weights in {path} do not fit the model: {'; '.join(problems)}")


@torch.no_grad()
def init_from(module: FlowModule, path: str | Path, *, ema: int = 1) -> str:
    """Initialise a module with the weights of a checkpoint, for fine-tuning; optimiser and epoch start from scratch.

    If the number of classes differs, the label table keeps its initial values, as do the embeddings of named conditions
    that the checkpoint does not have, or has with other names or another range; everything else is loaded.

    Args:
        module: The module to initialise; its averages are cleared.
        path: A file of any format.
        ema: Average to load, 1 or 2; 0 for the weights themselves. Without an average the weights are loaded.

    Returns:
        One line that says what was loaded and what was not.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If anything but the label table and conditions does not fit.
    """
    weights, source, trained_on = _initial_weights(module, path, ema)
    module.load_state_dict(weights)
    module.trained_on = trained_on
    module.ema_params1, module.ema_params2, module.ema_history = {}, {}, EMAHistory()
    summary = f"initialised {len(weights)} tensors from {source}"
    log.info(summary)
    return summary


def check_init(module: FlowModule, path: str | Path, *, ema: int = 1) -> None:
    """Check that :func:`init_from` can initialise a module, which may be on the meta device; same errors."""
    _initial_weights(module, path, ema)


def _initial_weights(module: FlowModule, path: str | Path, ema: int) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Return the state dict to initialise a module with, its origin in words, and what it was trained on."""
    state = read_state(path)
    if ema and state.ema1 is None:
        ema = 0
    weights, own = state.chosen(ema), module.state_dict()
    source = f"{f'EMA {ema}' if ema else 'the weights'} of {path}"
    table = weights.get(_LABEL_TABLE)
    ours = own.get(_LABEL_TABLE)
    if table is not None and ours is not None and len(table) != len(ours) and table.shape[1:] == ours.shape[1:]:
        source += f", except the label table ({len(table) - 1} classes there, {module.num_classes} here)"
        weights = {**weights, _LABEL_TABLE: ours}
    theirs, ours_named = state.settings.get("conditions") or {}, module.conditions
    same = [] if ours_named is None else [n for n, c in ours_named.to_record().items() if theirs.get(n) == c]
    kept = tuple(f"{_CONDITIONS}{name}_embedder." for name in same)
    fresh = [name for name in (ours_named.conditions if ours_named is not None else ()) if name not in same]
    source += f", except the conditions {', '.join(fresh)}" if fresh else ""
    weights = {n: v for n, v in weights.items() if not n.startswith(_CONDITIONS) or n.startswith(kept)}
    weights |= {n: v for n, v in own.items() if n.startswith(_CONDITIONS) and not n.startswith(kept)}
    # Loss terms are another training's: those of this one start anew, others are left out.
    new_terms = {name: v for name, v in own.items() if name.startswith(TERMS_PREFIX) and name not in weights}
    weights = {**_without_unused_terms(weights, own), **new_terms}
    check_state_dict(own, weights, path)
    return weights, source, state.trained_on
