"""Build the module from the command-line arguments of the JiT release."""

from __future__ import annotations

from typing import Any

from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.jit_release import INTERVAL_NAMES, RELEASE_NAMES, settings_from_release_args
from jitflow.errors import ConfigError


def create_jit_lightning_module(args: Any) -> JiTLightningModule:
    """Build the module from an argparse namespace with the release's names.

    The learning rate is ``lr`` if given, else ``blr * effective batch / 256``, where the effective batch
    counts every process (``world_size``) and gradient accumulation (``accum_iter``), 1 where absent.

    Args:
        args: Any object with the release's attributes (``model``, ``img_size``, ``class_num``, ...).

    Returns:
        The module.

    Raises:
        ConfigError: If an attribute is missing, naming it.
    """
    required = [name for name in (*RELEASE_NAMES.values(), *INTERVAL_NAMES) if name != "lr"]
    missing = [name for name in required if not hasattr(args, name)]
    if getattr(args, "lr", None) is None:
        missing += [name for name in ("blr", "batch_size") if getattr(args, name, None) is None]
    if missing:
        raise ConfigError(f"args lacks {', '.join(missing)} (the JiT release's names; lr, or blr with batch_size)")
    given = {name: getattr(args, name) for name in required}
    return JiTLightningModule(**settings_from_release_args({**given, "lr": learning_rate_from_args(args)}))


def learning_rate_from_args(args: Any) -> float:
    """Return the learning rate ``args.lr``, or ``args.blr`` (per 256 images) scaled to the effective batch."""
    if getattr(args, "lr", None) is not None:
        return float(args.lr)
    processes, accumulation = (int(getattr(args, name, None) or 1) for name in ("world_size", "accum_iter"))
    return float(args.blr) * args.batch_size * processes * accumulation / 256
