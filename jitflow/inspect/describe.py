"""Count the parameters and operations of a network without running it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT
from jitflow.nets.registry import create_model


def describe_model(name: str, **overrides: Any) -> dict[str, Any]:
    """Count parameters, tokens and multiply-accumulates of a network.

    The network is built on the meta device, without memory for weights, so even the largest takes only a moment.

    Args:
        name: Name in the registry.
        overrides: Settings that override the variant's, such as ``img_size``.

    Returns:
        ``img_size`` (height, width; of the latents for a network on latents), ``tokens`` (image tokens),
        ``parameters``, ``trainable_parameters`` and ``macs`` (multiply-accumulates of matrix products for one image
        and one forward pass).
    """
    with torch.device("meta"):
        net = create_model(name, **overrides)
        assert isinstance(net, JiT | LightningDiT)
        size = net.img_size if isinstance(net, JiT) else net.input_size
        x = torch.zeros(1, net.in_channels, *size)
        t, y = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            net(x, t, y)
    return {
        "img_size": size,
        "tokens": net.grid[0] * net.grid[1],
        "parameters": sum(p.numel() for p in net.parameters()),
        "trainable_parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "macs": counter.get_total_flops() // 2,
    }
