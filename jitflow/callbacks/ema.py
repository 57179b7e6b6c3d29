"""EMA callback: two exponential moving averages of the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from jitflow.core.ema import copy_parameters, update_ema_
from jitflow.errors import ConfigError
from jitflow.training.averages import averaged_parameters
from jitflow.training.ema_history import EMAHistory
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)


class EMACallback(pl.Callback):
    """Keep two averages of a module's weights, updated once after every optimiser step.

    The module holds, saves and restores the averages (``ema_params1``, ``ema_params2``); this callback initialises them
    with a copy of the weights and updates them. Its decays override the module's; if the module's ``ema_warmup`` is
    set, the first updates have smaller decays (:func:`jitflow.core.ema.warmed_up_decay`).

    Args:
        ema_decay1: Decay of the first average, in ``[0, 1]``; higher is smoother.
        ema_decay2: Decay of the second average, in ``[0, 1]``.
        on_cpu: Keep both averages in host memory, which saves 8 bytes per parameter on the device but copies the
            weights to the host at each step.

    Raises:
        ConfigError: If a decay is out of range.
    """

    def __init__(self, ema_decay1: float = 0.9999, ema_decay2: float = 0.9996, *, on_cpu: bool = False) -> None:
        for decay in (ema_decay1, ema_decay2):
            if not 0 <= decay <= 1:
                raise ConfigError(f"an EMA decay must lie in [0, 1]; got {decay}")
        self.ema_decay1 = ema_decay1
        self.ema_decay2 = ema_decay2
        self.on_cpu = on_cpu
        self._steps_seen = 0
        self._weights: Mapping[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise ConfigError for a module that cannot hold averages, or for a second EMACallback."""
        if not isinstance(pl_module, FlowModule):
            raise ConfigError(f"EMACallback needs a jitflow module; got {type(pl_module).__name__}")
        if sum(isinstance(c, EMACallback) for c in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise ConfigError("two EMACallbacks would update the averages twice a step; keep one")
        if stage == "fit":
            # Before a checkpoint is loaded into them.
            pl_module.ema_on_cpu = self.on_cpu
        callback_decays, module_decays = (
            (self.ema_decay1, self.ema_decay2),
            (pl_module.ema_decay1, pl_module.ema_decay2),
        )
        if stage == "fit" and callback_decays != module_decays:
            pl.utilities.rank_zero_warn(
                f"EMA decays differ: the callback's {callback_decays} are used, not the model's {module_decays}"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Initialise both averages with a copy of the weights, unless a checkpoint provided them."""
        module = _flow(pl_module)
        # Collected once: walking through all layers in each step would cost a small network a fifth of its time.
        weights = self._weights = averaged_parameters(module)
        ema_device = "cpu" if self.on_cpu else None
        if not module.ema_params1:
            module.ema_history = EMAHistory()
        module.ema_params1 = module.ema_params1 or copy_parameters(weights, device=ema_device)
        module.ema_params2 = module.ema_params2 or copy_parameters(weights, device=ema_device)
        self._steps_seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the averages if this batch ended in an optimiser step (with gradient accumulation, not all do)."""
        if trainer.global_step == self._steps_seen:
            return
        self._steps_seen = trainer.global_step
        module = _flow(pl_module)
        decays = module.ema_history.next_decays((self.ema_decay1, self.ema_decay2), warmup=module.ema_warmup)
        for averages, decay in zip((module.ema_params1, module.ema_params2), decays, strict=True):
            update_ema_(averages, self._weights, decay)
        module.ema_history = module.ema_history.after_update(decays)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log one line if the first average still holds much of the weights that the training started from."""
        warning = _flow(pl_module).ema_history.start_warning(1)
        if warning is not None and trainer.is_global_zero:
            log.warning(warning)

    def get_ema_state_dict(self, pl_module: pl.LightningModule, ema_version: int = 1) -> dict[str, Tensor]:
        """Return a copy of the module's state dict with an average in place of the weights.

        Args:
            pl_module: The module.
            ema_version: 1 or 2.

        Raises:
            ConfigError: If the version is neither, or the average does not exist yet.
        """
        averages = _flow(pl_module).ema_parameters(ema_version)
        return {
            name: averages.get(name, value).detach().to(value.dtype, copy=True)
            for name, value in pl_module.state_dict().items()
        }

    @torch.no_grad()
    def load_ema_to_model(self, pl_module: pl.LightningModule, ema_version: int = 1) -> None:
        """Overwrite the module's weights with an average, permanently.

        To use an average temporarily, see :meth:`FlowModule.ema_weights`.

        Args:
            pl_module: The module.
            ema_version: 1 or 2.

        Raises:
            ConfigError: If the version is neither, or the average does not exist yet.
        """
        averages = _flow(pl_module).ema_parameters(ema_version)
        for name, parameter in averaged_parameters(pl_module).items():
            parameter.copy_(averages[name])


def _flow(pl_module: pl.LightningModule) -> FlowModule:
    assert isinstance(pl_module, FlowModule)
    return pl_module
