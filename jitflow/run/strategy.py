"""Strategy, number of devices and precision of a training."""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn

from jitflow.training.float8 import FP8_MIXED, check_float8, check_float8_layers
from jitflow.training.float8_precision import Float8Mixed

log = logging.getLogger(__name__)


def strategy_for(
    strategy: str | Strategy = "auto",
    *,
    devices: Any = "auto",
    accelerator: Any = "auto",
    num_nodes: int = 1,
    accumulate: int = 1,
) -> str | Strategy:
    """Choose the strategy for one or several devices; arguments and values are those of Lightning's Trainer.

    Several devices use DDP with a static graph, which holds for all our networks, so that DDP does not search for
    unused parameters. Gradients are views of the communication buckets, which saves one copy of them.

    Args:
        strategy: Requested strategy; anything but ``"auto"`` and ``"ddp"`` is returned unchanged.
        devices: Devices of a node.
        accelerator: Kind of the devices.
        num_nodes: Number of nodes.
        accumulate: Batches per optimiser step. With more than one the graph is not declared static: DDP would fail on
            batches without synchronisation.

    Returns:
        The strategy for the Trainer.
    """
    if strategy not in ("auto", "ddp") or num_nodes * count_devices(devices, accelerator) == 1:
        return strategy
    return DDPStrategy(static_graph=accumulate == 1, gradient_as_bucket_view=True)


def count_devices(devices: Any, accelerator: Any) -> int:
    """Count the devices of a node that Lightning's Trainer means by ``devices`` and ``accelerator``."""
    if isinstance(devices, Sized) and not isinstance(devices, str):
        return len(devices)
    text = str(devices)
    if text in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1
    # "0,1" and "2," name devices, as Lightning reads them.
    return int(text) if text.isdigit() else len([part for part in text.split(",") if part.strip()])


def usable_precision(precision: Any, accelerator: Any) -> Any:
    """Replace half precision by full precision on a CPU, and log the change.

    Args:
        precision: Lightning's name, such as ``16-mixed``; None for its default.
        accelerator: As the Trainer takes it.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and str(precision) in ("16", "16-mixed", "16-true"):
        log.info("precision %s needs a GPU; on this CPU 32-true is used", precision)
        return "32-true"
    return precision


def check_precision(precision: Any, accelerator: Any, net: nn.Module) -> None:
    """Raise ConfigError if the precision ``fp8-mixed`` is requested and cannot be used; all others are Lightning's.

    Args:
        precision: Name of the precision.
        accelerator: As the Trainer takes it.
        net: The network; its tensors may be on the meta device.
    """
    if precision == FP8_MIXED:
        check_float8(accelerator)
        check_float8_layers(net)


def precision_arguments(precision: Any, accelerator: Any, plugins: Any = None) -> dict[str, Any]:
    """Return the arguments ``precision`` and ``plugins`` of Lightning's Trainer.

    Args:
        precision: Lightning's name, ``fp8-mixed``, which is this library's, or None for Lightning's default.
        accelerator: As the Trainer takes it.
        plugins: Further plugins, as the Trainer takes them.
    """
    if precision != FP8_MIXED:
        return {"precision": usable_precision(precision, accelerator), "plugins": plugins}
    others = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    return {"precision": None, "plugins": [*others, Float8Mixed()]}


def is_first_process() -> bool:
    """Whether this is the process of rank 0, which writes files; works before a Trainer exists."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)
