"""Checkpoints of the JiT release: ``model``, ``model_ema1``, ``model_ema2``, ``optimizer``, ``epoch``, ``args``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow import __version__
from jitflow.applications import RELEASES
from jitflow.checkpoint.names import NET_PREFIX, module_names
from jitflow.checkpoint.optimizer_state import fit_optimizer, parameter_order, steps_done
from jitflow.checkpoint.state import PEAK_LR, ModelState
from jitflow.checkpoint.variant import detect_jit
from jitflow.errors import CheckpointError
from jitflow.training.ema_history import EMAHistory

# Argument of this library's module -> the release's name. The release has two names for the guidance interval.
RELEASE_NAMES = {
    "model_name": "model",
    "img_size": "img_size",
    "num_classes": "class_num",
    "attn_dropout": "attn_dropout",
    "proj_dropout": "proj_dropout",
    "learning_rate": "lr",
    "weight_decay": "weight_decay",
    "ema_decay1": "ema_decay1",
    "ema_decay2": "ema_decay2",
    "P_mean": "P_mean",
    "P_std": "P_std",
    "noise_scale": "noise_scale",
    "t_eps": "t_eps",
    "label_drop_prob": "label_drop_prob",
    "sampling_method": "sampling_method",
    "num_sampling_steps": "num_sampling_steps",
    "cfg_scale": "cfg",
}
INTERVAL_NAMES = ("interval_min", "interval_max")
# A table, and the directions of an asymmetric prediction.
_NOT_TRAINED = (f"{NET_PREFIX}pos_embed", "asym.basis")


def release_args(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Translate this library's module settings to the JiT release's arguments; settings unknown there are omitted."""
    args = {
        release_name: settings[name_here] for name_here, release_name in RELEASE_NAMES.items() if name_here in settings
    }
    if "cfg_interval" in settings:
        args.update(zip(INTERVAL_NAMES, settings["cfg_interval"], strict=True))
    return args


def settings_from_release_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the JiT release's arguments to this library's module settings; missing ones are omitted."""
    settings = {
        name_here: args[release_name]
        for name_here, release_name in RELEASE_NAMES.items()
        if args.get(release_name) is not None
    }
    if all(name in args for name in INTERVAL_NAMES):
        settings["cfg_interval"] = tuple(args[name] for name in INTERVAL_NAMES)
    return settings


def from_jit_release(checkpoint: Mapping[str, Any], path: Path, given: Mapping[str, Any]) -> ModelState:
    """Read a checkpoint of the JiT release.

    Args:
        checkpoint: Its entries.
        path: The file, for messages.
        given: Settings that override the file's; ``img_size`` and ``in_context_start`` if the shapes are ambiguous.

    Returns:
        The model.

    Raises:
        CheckpointError: If the weights are not a JiT's.
    """
    args = checkpoint.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else dict(args or {})
    weights = _state_dict(checkpoint, "model", path)
    fitted, left_out = read_optimizer(checkpoint.get("optimizer"), weights)
    record = checkpoint.get("jitflow", {})
    name_here = record.get("settings", {})
    settings = {**settings_from_release_args(args), **_hyper_parameters(checkpoint)}
    if "learning_rate" not in settings and fitted is not None:
        settings["learning_rate"] = float(fitted["param_groups"][0]["lr"])
    network = {name.removeprefix(NET_PREFIX): value for name, value in weights.items()}
    # The weights determine the network more reliably than the arguments, which may name a wrong variant.
    settings.update(name_here or detect_jit(network, {**args, **given}))
    return ModelState(
        {**settings, **{k: v for k, v in given.items() if k != "in_context_start"}},
        weights,
        ema1=_state_dict(checkpoint, "model_ema1", path) if checkpoint.get("model_ema1") is not None else None,
        ema2=_state_dict(checkpoint, "model_ema2", path) if checkpoint.get("model_ema2") is not None else None,
        optimizer=fitted,
        optimizer_left_out=left_out,
        epoch=int(checkpoint.get("epoch", -1)),
        step=steps_done(fitted) if fitted is not None else 0,
        args=dict(args),
        application=RELEASES["JiT"],
        extra={name: value for name, value in record.items() if name not in ("version", "settings")},
    )


def to_jit_release(state: ModelState) -> dict[str, Any]:
    """Convert a model's state to the checkpoint format of the JiT (Just image Transformers) release."""
    # Without averages the weights take their place.
    history = state.ema_history if state.ema1 is not None else EMAHistory(None, (0.0, 0.0))
    checkpoint: dict[str, Any] = {
        "model": state.weights,
        "epoch": state.epoch,
        "args": argparse.Namespace(**(state.args or release_args(state.settings))),
        "model_ema1": state.chosen(1) if state.ema1 is not None else dict(state.weights),
        "model_ema2": state.chosen(2) if state.ema2 is not None else dict(state.weights),
        # What has no argument in the release (prediction, time shift, class names), which ignores this entry.
        "jitflow": {
            **state.lasting_extra(),
            "version": __version__,
            "settings": state.settings,
            **history.state(),
        },
    }
    # A user's own class may have grouped its parameters in another way.
    optimizer, _ = read_optimizer(state.optimizer, state.weights)
    if optimizer is not None:
        # The schedule's peak rate is not an option of AdamW.
        groups = [{k: v for k, v in g.items() if k != PEAK_LR} for g in optimizer["param_groups"]]
        checkpoint["optimizer"] = {"state": optimizer["state"], "param_groups": groups}
    return checkpoint


def read_optimizer(optimizer: object, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any] | None, str]:
    """Reorder the state of a JiT's optimiser; see :func:`jitflow.checkpoint.optimizer_state.fit_optimizer`.

    Args:
        optimizer: The state dict in the file; None if it has none.
        weights: State dict of the module.

    Returns:
        The state and an empty text; or None and why it cannot be used, empty if the file has none.
    """
    if optimizer is None:
        return None, ""
    return fit_optimizer(optimizer, _trained(weights))


def optimizer_names(weights: Mapping[str, Tensor]) -> list[str]:
    """List the parameter names in the order of the optimiser's state: vectors and biases first, then the others.

    This is the release's order and this library's (:func:`jitflow.training.optim.parameter_groups`).

    Args:
        weights: State dict of the module.
    """
    return [name for group in parameter_order(_trained(weights)) for name in group]


def _trained(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items() if name not in _NOT_TRAINED}


def _state_dict(checkpoint: Mapping[str, Any], entry: str, path: Path) -> dict[str, Tensor]:
    """Return a state dict of the file with the module's names, without prefixes of wrappers."""
    weights = checkpoint[entry]
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{path}: the entry {entry!r} is no state dict")
    return module_names(weights)


def _hyper_parameters(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the module settings that code derived from the release stores beside the weights."""
    found = checkpoint.get("hyper_parameters")
    return dict(found) if isinstance(found, Mapping) else {}
