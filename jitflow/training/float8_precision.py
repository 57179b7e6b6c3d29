"""Lightning precision ``fp8-mixed``: bfloat16 autocast, and float8 products in the large layers."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from jitflow.training.float8 import FP8_MIXED, check_float8, undo_float8, use_float8
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)


class Float8Mixed(MixedPrecision):
    """Precision of a training: ``bf16-mixed`` with float8 products; ``pl.Trainer(plugins=[Float8Mixed()])``.

    Lightning converts the network after a checkpoint is loaded, and before the optimiser is made and anything is
    compiled. After the training its layers are ordinary ones again.

    Args:
        emulated: As in :func:`jitflow.training.float8.use_float8`; the training must then be on the CPU.

    Raises:
        ConfigError: If float8 is not available here.
    """

    def __init__(self, *, emulated: bool = False) -> None:
        if not emulated:
            check_float8()
        super().__init__("bf16-mixed", "cpu" if emulated else "cuda")
        # Lightning's class knows no other name, but reports this one.
        self.precision = FP8_MIXED  # type: ignore[assignment]
        self._converted: nn.Module | None = None

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert the large layers of a :class:`~jitflow.training.module.FlowModule`'s network in place."""
        net = module.net if isinstance(module, FlowModule) else module
        number = use_float8(net, emulated=self.device == "cpu")
        self._converted = net
        log.info("float8 products in %d linear layers", number)
        return module

    def autocast_context_manager(self) -> torch.autocast:
        """Compute in bfloat16 what is not in float8."""
        return torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False)

    def teardown(self) -> None:
        """Restore the ordinary layers."""
        if self._converted is not None:
            undo_float8(self._converted)
            self._converted = None
