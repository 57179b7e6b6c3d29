"""The JiT release's command-line names and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Argument of JiTLightningModule -> the release's name. The guidance interval is two names there.
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
    """Say our module's settings in the release's names; what it has no name for is left out."""
    args = {theirs: settings[ours] for ours, theirs in RELEASE_NAMES.items() if ours in settings}
    if "cfg_interval" in settings:
        args.update(zip(INTERVAL_NAMES, settings["cfg_interval"], strict=True))
    return args


def settings_from_release_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Say the release's arguments as our module's settings; what is absent is left out."""
    settings = {ours: args[theirs] for ours, theirs in RELEASE_NAMES.items() if args.get(theirs) is not None}
    if all(name in args for name in INTERVAL_NAMES):
        settings["cfg_interval"] = tuple(args[name] for name in INTERVAL_NAMES)
    return settings
