"""Checkpoints of the JiT release: ``model``, ``model_ema1``, ``model_ema2``, ``optimizer``, ``epoch``, ``args``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jitflow import __version__
from jitflow.applications import RELEASES
from jitflow.checkpoint.state import NET_PREFIX, PEAK_LR, ModelState
from jitflow.checkpoint.variant import detect_jit
from jitflow.errors import CheckpointError

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
        CheckpointError: If the weights are not a JiT's, or the optimiser's state belongs to another network.
    """
    args = checkpoint.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else dict(args or {})
    weights = checkpoint["model"]
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{path}: the entry 'model' is no state dict")
    # Prefixes of DistributedDataParallel and torch.compile are removed.
    weights = {name.removeprefix("module.").replace("_orig_mod.", ""): value for name, value in weights.items()}
    optimizer = checkpoint.get("optimizer")
    name_here = checkpoint.get("jitflow", {}).get("settings", {})
    settings = settings_from_release_args(args)
    if "learning_rate" not in settings and optimizer is not None:
        settings["learning_rate"] = float(optimizer["param_groups"][0]["lr"])
    network = {name.removeprefix(NET_PREFIX): value for name, value in weights.items()}
    # The weights determine the network more reliably than the arguments, which may name a wrong variant.
    settings.update(name_here or detect_jit(network, {**args, **given}))
    state = ModelState(
        settings={**settings, **{k: v for k, v in given.items() if k != "in_context_start"}},
        weights=weights,
        ema1=checkpoint.get("model_ema1"),
        ema2=checkpoint.get("model_ema2"),
        epoch=int(checkpoint.get("epoch", -1)),
        args=args,
        application=RELEASES["JiT"],
    )
    if optimizer is not None:
        state.optimizer = _check_optimizer(optimizer, weights, path)
        state.step = int(max((float(s.get("step", 0)) for s in optimizer["state"].values()), default=0))
    return state


def to_jit_release(state: ModelState) -> dict[str, Any]:
    """Convert a model to a checkpoint of the JiT release."""
    checkpoint: dict[str, Any] = {
        "model": state.weights,
        "epoch": state.epoch,
        "args": argparse.Namespace(**(state.args or release_args(state.settings))),
        "model_ema1": state.chosen(1) if state.ema1 is not None else dict(state.weights),
        "model_ema2": state.chosen(2) if state.ema2 is not None else dict(state.weights),
        # Settings without an argument in the release (prediction, time shift, network sizes), which ignores this entry.
        "jitflow": {"version": __version__, "settings": state.settings},
    }
    if state.optimizer is not None:
        # The schedule's peak rate is not an option of AdamW.
        groups = [{k: v for k, v in g.items() if k != PEAK_LR} for g in state.optimizer["param_groups"]]
        checkpoint["optimizer"] = {"state": state.optimizer["state"], "param_groups": groups}
    return checkpoint


def optimizer_names(weights: Mapping[str, Tensor]) -> list[str]:
    """List the parameter names in the order of the optimiser's state: vectors and biases first, then the others.

    This is the release's order and this library's (:func:`jitflow.training.optim.parameter_groups`).

    Args:
        weights: State dict of the module.
    """
    trained = [name for name in weights if name != f"{NET_PREFIX}pos_embed"]
    no_decay = [name for name in trained if weights[name].ndim < 2 or name.endswith(".bias")]
    return no_decay + [name for name in trained if name not in set(no_decay)]


def _check_optimizer(optimizer: dict[str, Any], weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Check the shapes of the optimiser's moments against the parameters, since torch accepts any shape."""
    names = optimizer_names(weights)
    indices = [index for group in optimizer["param_groups"] for index in group["params"]]
    if len(indices) != len(names):
        raise CheckpointError(f"{path}: the optimiser holds {len(indices)} parameters, the network trains {len(names)}")
    for name, index in zip(names, indices, strict=True):
        for moment, value in optimizer["state"].get(index, {}).items():
            if moment.startswith("exp_avg") and value.shape != weights[name].shape:
                raise CheckpointError(
                    f"{path}: {moment} of {name} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(weights[name].shape)}"
                )
    return optimizer
