"""Compilation of a training step: network and loss in one graph, replayed as a CUDA graph where launching is the limit.

A step of a small network is a few hundred kernels of some microseconds each, which a CPU launches more slowly than a
GPU computes them. A CUDA graph launches them together. It fixes the addresses of its results, so it is used only where
nothing else relies on them: gradients that several backward passes add up, or that devices exchange, exclude it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from jitflow.host import allow_tf32
from jitflow.layers.fusion import NO_KERNELS, runs_kernels
from jitflow.layers.transformer import AdaLNTransformer, raise_recompile_limit

if TYPE_CHECKING:
    from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)
LossParts = Callable[..., dict[str, Tensor]]

# Operations of a step in each block, below which launching it takes longer than computing it. One block's kernels take
# about 2 ms of a CPU in a compiled step (JiT-B/16 on an H200), in which such a card does some 8e11 operations.
_LAUNCH_BOUND = 1e12


def prepare_cuda() -> None:
    """Prepare a training on CUDA: allow TF32, and say so if its fast code cannot be built here."""
    allow_tf32()
    if not runs_kernels():
        log.warning(NO_KERNELS)


def compiles_loss(module: FlowModule, x1: Tensor) -> bool:
    """Whether a training step of a batch should be compiled as a whole: by default on CUDA, where that is possible."""
    parts = module.net.parts_to_compile if isinstance(module.net, AdaLNTransformer) else False
    return torch.is_grad_enabled() and (parts == "loss" or (parts == "auto" and x1.is_cuda and runs_kernels()))


class CompiledLoss:
    """The method ``loss_parts`` of a module, compiled at its first call with each batch shape.

    Args:
        module: The module.

    Attributes:
        variants: Compiled method by whether it is a CUDA graph.
    """

    def __init__(self, module: FlowModule) -> None:
        self._module = module
        self.variants: dict[bool, LossParts] = {}
        # By batch size: counting the weights in each step would take a small network's time.
        self._is_launch_bound: dict[int, bool] = {}

    def __call__(self, x1: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the parts of the loss, as :meth:`FlowModule.loss_parts` does."""
        graphed = self.can_graph(x1)
        if graphed not in self.variants:
            raise_recompile_limit()
            wanted = "reduce-overhead" if graphed else None
            compiled = torch.compile(self._module.loss_parts, dynamic=False, mode=wanted)
            self.variants[graphed] = cast("LossParts", compiled)
        # The next replay of a graph overwrites these; a step computes new tensors from them for its callbacks.
        return self.variants[graphed](x1, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is compiled: it belongs to this module, and not to a copy."""
        return {**vars(self), "variants": {}}

    def can_graph(self, x1: Tensor) -> bool:
        """Whether a step of a batch should be a CUDA graph: launches are its limit, and nothing keeps its gradients."""
        trainer = self._module._trainer
        if trainer is None or trainer.world_size > 1 or trainer.accumulate_grad_batches > 1:
            return False
        if not (x1.is_cuda and self._module.is_one_graph):
            return False
        size = len(x1)
        if size not in self._is_launch_bound:
            self._is_launch_bound[size] = is_launch_bound(self._module.net, size, passes=3)
        return self._is_launch_bound[size]


def is_launch_bound(net: nn.Module, batch: int, *, passes: int) -> bool:
    """Whether launching a network's kernels on a GPU takes longer than computing them.

    Args:
        net: The network; one that is not of :mod:`jitflow.nets` is taken to be large.
        batch: Samples at a time.
        passes: 1 for a forward pass, 3 for a training step.
    """
    if not isinstance(net, AdaLNTransformer):
        return False
    tokens = batch * net.pos_embed.shape[1]
    weights = sum(p.numel() for p in net.parameters())
    return 2 * passes * weights * tokens / len(net.blocks) < _LAUNCH_BOUND
