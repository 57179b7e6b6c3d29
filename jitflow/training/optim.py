"""The optimiser of a training: parameter groups, kernels of the machine, gradient clipping, resuming."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from jitflow.errors import ConfigError
from jitflow.training.optimizers import OptimizerName, build_optimizer, parameter_groups
from jitflow.training.terms import TERMS_PREFIX

log = logging.getLogger(__name__)


class Optimization(pl.LightningModule):
    """Optimiser hooks of :class:`jitflow.training.module.FlowModule`, which sets the attributes.

    Attributes:
        optimizer: Name of the optimiser.
        learning_rate: Step size.
        weight_decay: Decay of matrices; vectors and biases never decay.
        optimizer_on_cpu: Keep the optimiser's state in host memory and step there.
    """

    net: nn.Module
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    optimizer_on_cpu: bool

    def configure_optimizers(self) -> Any:
        """Build the optimiser, AdamW with betas (0.9, 0.95) in it; biases and vectors never decay.

        Raises:
            ConfigError: If Muon is asked for a network without blocks, or where the strategy splits matrices.
        """
        splits = self._trainer is not None and isinstance(self.trainer.strategy, (FSDPStrategy, ModelParallelStrategy))
        if splits and self.optimizer == "muon":
            raise ConfigError("optimizer muon needs whole matrices, which this strategy splits; use ddp, or adamw")
        # Where the order of the parameters is not that of the JiT release, state dicts name them.
        named = self.optimizer != "adamw" or any(name.startswith(TERMS_PREFIX) for name, _ in self.named_parameters())
        return build_optimizer(
            parameter_groups(self, self.weight_decay, matrices=self.muon_matrices(), named=named),
            learning_rate=self.learning_rate,
            fused=self._can_fuse_optimizer(),
            on_cpu=self.optimizer_on_cpu,
        )

    def muon_matrices(self) -> list[nn.Parameter]:
        """Return the parameters that Muon trains, the matrices of the network's blocks; none for another optimiser.

        Raises:
            ConfigError: If the network has no blocks.
        """
        if self.optimizer != "muon":
            return []
        blocks = getattr(self.net, "blocks", None)
        found = [p for p in blocks.parameters() if p.ndim == 2] if isinstance(blocks, nn.Module) else []
        if not found:
            raise ConfigError(
                f"optimizer muon trains the matrices of a network's blocks, and {type(self.net).__name__} has none; "
                "use adamw"
            )
        return found

    def _can_fuse_optimizer(self) -> bool:
        if self._trainer is None:
            return self.device.type in ("cpu", "cuda")
        # Under float16 the fused kernel unscales the gradients inside the step, too late to clip them.
        scales = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        clips = bool(self.trainer.gradient_clip_val)
        return not (scales and clips) and self.trainer.strategy.root_device.type in ("cpu", "cuda")

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients with torch's functions: Lightning refuses a fused optimiser under bf16-mixed."""
        if not gradient_clip_val:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def adopt_settings(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace learning rate and weight decay in a checkpoint's optimiser states by this module's, with a warning.

        Otherwise the module's own would be written into the next checkpoint without having had an effect. A class with
        an optimiser of its own keeps what the states hold.

        Args:
            states: State dictionaries of optimisers, changed in place.
        """
        if type(self).configure_optimizers is not Optimization.configure_optimizers:
            return
        changes = [change for state in states for change in self._adopt_in_groups(state["param_groups"])]
        if changes:
            log.warning("resuming with %s, as this module was built", " and ".join(changes))

    def _adopt_in_groups(self, groups: list[dict[str, Any]]) -> list[str]:
        changes = []
        peaks = {float(group["peak_lr"]) for group in groups if "peak_lr" in group}
        if peaks and peaks != {self.learning_rate}:
            changes.append(f"learning_rate {self.learning_rate:g} instead of {max(peaks):g}")
            for group in groups:
                group.update(peak_lr=self.learning_rate, lr=self.learning_rate)
        decay = max((float(group["weight_decay"]) for group in groups), default=self.weight_decay)
        if decay != self.weight_decay:
            changes.append(f"weight_decay {self.weight_decay:g} instead of {decay:g}")
            for group in groups[1:]:
                # The first group never decays.
                group["weight_decay"] = self.weight_decay
        return changes

    def choose_kernels(self, states: Iterable[dict[str, Any]]) -> None:
        """Select this machine's kernels in the optimiser states of a checkpoint.

        Args:
            states: State dictionaries of optimisers, modified in place.
        """
        # The kernel depends on this machine and precision, not on those of the file.
        for state in states:
            for group in state["param_groups"]:
                if "fused" in group:
                    group.update(fused=self._can_fuse_optimizer(), foreach=None)
