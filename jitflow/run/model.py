"""Build the model of a training from recipe, data and checkpoint settings, and check it beforehand."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from jitflow.checkpoint.formats import read_state
from jitflow.errors import CheckpointError, ConfigError
from jitflow.run.memory_fit import check_state_fits
from jitflow.run.recipe import copy_nested, find_class, import_loss_terms
from jitflow.run.settings import describe_changes, fixed_settings
from jitflow.run.strategy import check_precision, count_devices
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
# Stand for arguments that depend on the length of the training.
_PLACEHOLDERS = {"ema_decay1": 0.0, "ema_decay2": 0.0}


def kept_settings(checkpoint: Path) -> dict[str, Any]:
    """Return the model's constructor arguments that a checkpoint of any format was trained with."""
    return copy_nested(dict(read_state(checkpoint).settings))


def build_model(
    recipe: Mapping[str, Any], info: Mapping[str, Any], chosen: Mapping[str, Any], *, allow_import: Collection[str] = ()
) -> FlowModule:
    """Build the model of a training.

    Args:
        recipe: Complete settings; arguments that are null are taken from ``chosen``, else from the data.
        info: Description of the data (``get_dataset_info``).
        chosen: Arguments of the checkpoint to resume, and those derived from the training's length.
        allow_import: Packages of further classes.

    Returns:
        The module, with fresh weights.

    Raises:
        ConfigError: If a setting is invalid.
    """
    cls = _model_class(recipe, allow_import)
    return cls(**_arguments(cls, recipe["model"]["init_args"], {**cls.settings_from_data(info), **chosen}))


def check_same_model(recipe: Mapping[str, Any], kept: Mapping[str, Any], *, allow_import: Collection[str] = ()) -> None:
    """Check that a recipe's model settings match the checkpoint to resume.

    Args:
        recipe: Complete settings.
        kept: Arguments of the checkpoint's model; empty for a new training.
        allow_import: Packages of further classes.

    Raises:
        ConfigError: If a setting is invalid.
        CheckpointError: If the checkpoint was trained with other settings; names them.
    """
    if not kept:
        return
    given = recipe["model"]["init_args"]
    with torch.device("meta"):
        made = build_model(recipe, {}, _PLACEHOLDERS, allow_import=allow_import)
    differing = fixed_settings(_differences(given, dict(made.hparams), kept))
    if differing:
        raise CheckpointError(
            f"the checkpoint was trained with {describe_changes(differing)}; leave these settings as they were, or "
            "start a new run from its weights with --init_from"
        )


def check_model(recipe: Mapping[str, Any], kept: Mapping[str, Any], *, allow_import: Collection[str] = ()) -> None:
    """Check a model's settings and memory before its data are read and without allocating it.

    Args:
        recipe: Complete settings.
        kept: Model arguments of the checkpoint to resume; empty for a new training.
        allow_import: Packages of further classes.

    Raises:
        ConfigError: If a setting is invalid, the precision cannot be used, or the model's state does not fit into
            memory.
    """
    with torch.device("meta"):
        module = build_model(recipe, {}, {**_PLACEHOLDERS, **kept}, allow_import=allow_import)
    module.check_guidance()
    check_precision(recipe["trainer"]["precision"], recipe["trainer"]["accelerator"], module.net)
    check_state_fits(
        module,
        accelerator=recipe["trainer"]["accelerator"],
        num_devices=max(1, count_devices(recipe["trainer"]["devices"], recipe["trainer"]["accelerator"])),
        optimizer_on_cpu=recipe["optimizer_on_cpu"],
        ema_on_cpu=recipe["ema_on_cpu"],
    )


def _model_class(recipe: Mapping[str, Any], allow_import: Collection[str]) -> type[FlowModule]:
    cls = find_class(recipe["model"], allow_import)
    if not issubclass(cls, FlowModule):
        raise ConfigError(f"the recipe's model must be a FlowModule; got {recipe['model']['class_path']}")
    import_loss_terms(recipe["model"]["init_args"], allow_import)
    return cls


def _differences(
    given: Mapping[str, Any], made: Mapping[str, Any], kept: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return given settings that differ from a checkpoint's: (checkpoint's value, given value) by dotted name.

    Args:
        given: Arguments of the model's class; null stands for the checkpoint's value.
        made: Arguments as the class stores them in checkpoints, such as a tokenizer's JSON in place of its name.
        kept: Arguments stored in the checkpoint.
    """
    return {
        f"model.{name}": (kept[name], value)
        for name, value in given.items()
        if value is not None and name in kept and copy_nested(kept[name]) not in (value, copy_nested(made.get(name)))
    }


def _arguments(cls: type[FlowModule], given: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in null arguments from ``chosen``, and convert lists to tuples where the class expects them."""
    annotations = getattr(cls.__init__, "__annotations__", {})
    found = {name: chosen.get(name) if value is None else value for name, value in given.items()}
    return {
        name: tuple(value) if isinstance(value, list) and "tuple[" in str(annotations.get(name, "")) else value
        for name, value in found.items()
    }
