"""The module from the command-line arguments of the JiT release."""

from __future__ import annotations

from typing import Any

from jitflow.errors import ConfigError
from jitflow.training.jit_module import JiTLightningModule

# Our argument -> the release's.
_NAMES = {
    "model_name": "model",
    "img_size": "img_size",
    "num_classes": "class_num",
    "attn_dropout": "attn_dropout",
    "proj_dropout": "proj_dropout",
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


def create_jit_lightning_module(args: Any) -> JiTLightningModule:
    """Build the module from an argparse namespace with the release's names.

    The learning rate is ``lr`` if it is given, else ``blr * effective batch / 256``, where the effective batch
    counts every process (``world_size``) and gradient accumulation (``accum_iter``), 1 where absent.

    Args:
        args: Any object with the release's attributes (``model``, ``img_size``, ``class_num``, ...).

    Returns:
        The module.

    Raises:
        ConfigError: If an attribute is missing, naming it.
    """
    missing = [theirs for theirs in (*_NAMES.values(), "interval_min", "interval_max") if not hasattr(args, theirs)]
    if getattr(args, "lr", None) is None:
        missing += [name for name in ("blr", "batch_size") if getattr(args, name, None) is None]
    if missing:
        raise ConfigError(f"args lacks {', '.join(missing)} (the JiT release's names; lr, or blr with batch_size)")
    settings = {ours: getattr(args, theirs) for ours, theirs in _NAMES.items()}
    return JiTLightningModule(
        **settings, cfg_interval=(args.interval_min, args.interval_max), learning_rate=learning_rate_from_args(args)
    )


def learning_rate_from_args(args: Any) -> float:
    """Return ``args.lr``, or the rate that ``args.blr`` (per 256 images) means for the effective batch."""
    if getattr(args, "lr", None) is not None:
        return float(args.lr)
    processes, accumulation = (int(getattr(args, name, None) or 1) for name in ("world_size", "accum_iter"))
    return float(args.blr) * args.batch_size * processes * accumulation / 256
