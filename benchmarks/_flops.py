"""Floating-point operations of a JiT by formula, for MFU: those of the model, not of the kernels."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from jitflow.nets.jit import JiT


def forward_flops(net: JiT) -> int:
    """Count the operations of a forward pass of one image: two for each multiply-accumulate of a matrix product.

    Args:
        net: The network.

    Returns:
        The operations; a training step is usually estimated as three times as many.
    """
    width, depth = net.pos_embed.shape[-1], len(net.blocks)
    image_tokens = net.grid[0] * net.grid[1]
    patch = net.patch_size**2 * net.in_channels
    narrow = net.x_embedder.proj1.out_channels
    hidden = net.blocks[0].mlp.w3.in_features  # type: ignore[union-attr]
    macs = image_tokens * (patch * narrow + narrow * width)
    macs += net.t_embedder.frequency_dim * width + width * width
    for i in range(depth):
        tokens = image_tokens + (net.in_context_len if net.in_context_len and i >= net.in_context_start else 0)
        # Class tokens are only keys and values in the last block.
        read = image_tokens if i == depth - 1 else tokens
        macs += tokens * 3 * width * width + 2 * read * tokens * width
        macs += read * (width * width + 3 * width * hidden) + 6 * width * width
    macs += image_tokens * width * patch + 2 * width * width
    return 2 * macs


def check_formula(net: JiT) -> float:
    """Compare the formula with torch's counter on the same network.

    Args:
        net: The network; it is not run.

    Returns:
        The formula's result divided by the count.
    """
    shapes = {name: value.to("meta") for name, value in net.state_dict().items()}
    counter = FlopCounterMode(display=False)
    x = torch.zeros(1, net.in_channels, *net.img_size, device="meta")
    t, y = torch.zeros(1, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
    with counter, torch.no_grad():
        torch.func.functional_call(net, shapes, (x, t, y))
    return forward_flops(net) / counter.get_total_flops()
