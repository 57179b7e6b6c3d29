"""How a training is spread over several devices."""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import DDPStrategy, Strategy

log = logging.getLogger(__name__)


def strategy_for(
    strategy: str | Strategy = "auto",
    *,
    devices: Any = "auto",
    accelerator: Any = "auto",
    num_nodes: int = 1,
    accumulate: int = 1,
) -> str | Strategy:
    """Choose how devices work together; arguments and words are those of Lightning's Trainer.

    Where several would get plain DDP they get one that is told what holds for all our networks: every step has the
    same graph, so that nobody looks for unused parameters. It also keeps gradients in the buffers that it sends, once
    instead of twice.

    Args:
        strategy: What was asked for; anything but ``"auto"`` and ``"ddp"`` stays as it is.
        devices: Devices of a node.
        accelerator: Their kind.
        num_nodes: Number of nodes.
        accumulate: Batches for one step of the optimiser. With more than one, the graph is not called static: DDP then
            fails on the batches that send nothing.

    Returns:
        What to give to the Trainer.
    """
    if strategy not in ("auto", "ddp") or num_nodes * count_devices(devices, accelerator) == 1:
        return strategy
    return DDPStrategy(static_graph=accumulate == 1, gradient_as_bucket_view=True)


def count_devices(devices: Any, accelerator: Any) -> int:
    """Count the devices of a node that Lightning's Trainer means by ``devices`` and ``accelerator``."""
    if isinstance(devices, Sized) and not isinstance(devices, str):
        return len(devices)
    words = str(devices)
    if words in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1
    # "0,1" and "2," name devices, as Lightning reads them.
    return int(words) if words.isdigit() else len([part for part in words.split(",") if part.strip()])


def usable_precision(precision: Any, accelerator: Any) -> Any:
    """Replace half precision by full precision where training runs on a CPU, and say so.

    Args:
        precision: Lightning's name, such as ``16-mixed``; None for its default.
        accelerator: As the Trainer takes it.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and str(precision) in ("16", "16-mixed", "16-true"):
        log.info("precision %s needs a GPU; on this CPU 32-true is used", precision)
        return "32-true"
    return precision


def is_first_process() -> bool:
    """Whether this is the process that writes for all, also before there is a Trainer."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)
