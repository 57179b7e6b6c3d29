"""AdamW of all applications: parameter groups, fused kernels, host-memory variant, gradient clipping."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW

log = logging.getLogger(__name__)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split trainable parameters into two groups, without weight decay (vectors and biases) and with it.

    Args:
        module: Module with the parameters.
        weight_decay: Decay of the second group.

    Returns:
        Two groups, no-decay first as in the JiT release, each in the order of ``named_parameters``.
    """
    no_decay: list[nn.Parameter] = []
    decay: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (no_decay if parameter.ndim < 2 or name.endswith(".bias") else decay).append(parameter)
    return [{"params": no_decay, "weight_decay": 0.0}, {"params": decay, "weight_decay": weight_decay}]


def build_adamw(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    fused: bool = True,
    on_cpu: bool = False,
) -> AdamW:
    """Build AdamW over :func:`parameter_groups`.

    Args:
        module: Module with the parameters.
        learning_rate: Step size, positive.
        weight_decay: Decoupled decay of matrices.
        betas: Decay of the two moments.
        fused: Use one kernel for all parameters (about 4 times faster, on the CPU too).
        on_cpu: Keep the moments in host memory and step there, see :class:`HostAdamW`.

    Returns:
        The optimiser.
    """
    groups = parameter_groups(module, weight_decay)
    if on_cpu:
        return HostAdamW(groups, lr=learning_rate, betas=betas, eps=1e-8)
    return AdamW(groups, lr=learning_rate, betas=betas, eps=1e-8, fused=fused)


class HostAdamW(AdamW):
    """AdamW whose moments stay in host memory, which saves 8 bytes per parameter on the device.

    Each step copies the gradients to the host, steps there with the fused kernel, and copies the weights back. Results
    equal AdamW's, and state dicts are interchangeable with it.

    Args:
        groups: Parameter groups.
        settings: Arguments of :class:`torch.optim.AdamW` except ``fused`` or ``foreach``.
    """

    def __init__(self, groups: list[dict[str, object]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._host_copies: dict[Tensor, Tensor] = {
            p: nn.Parameter(torch.empty_like(p, device="cpu")) for group in self.param_groups for p in group["params"]
        }
        self._host = AdamW(
            [
                {**group, "params": [self._host_copies[p] for p in group["params"]], "fused": True}
                for group in self.param_groups
            ]
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one optimiser step; ``closure`` recomputes loss and gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for ours, theirs in zip(self.param_groups, self._host.param_groups, strict=True):
            # The schedule changes the learning rate of our groups only.
            theirs.update({name: value for name, value in ours.items() if name not in ("params", "fused", "foreach")})
        for parameter, copy in self._host_copies.items():
            copy.copy_(parameter)
            copy.grad = None if parameter.grad is None else parameter.grad.to("cpu", copy.dtype)
        self._host.step()
        for parameter, copy in self._host_copies.items():
            if copy.grad is not None:
                parameter.copy_(copy)
                self.state[parameter] = self._host.state[copy]
            copy.grad = None
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load an AdamW state dict into host memory only.

        Args:
            state_dict: State dict of this class or of AdamW.
        """
        self._host.load_state_dict(state_dict)
        for ours, theirs in zip(self.param_groups, self._host.param_groups, strict=True):
            ours.update({name: value for name, value in theirs.items() if name not in ("params", "fused", "foreach")})
            theirs.update(fused=True, foreach=None)
        for parameter, copy in self._host_copies.items():
            if copy in self._host.state:
                self.state[parameter] = self._host.state[copy]


class AdamWOptimization(pl.LightningModule):
    """Optimiser hooks of :class:`jitflow.training.module.FlowModule`, which sets the attributes.

    Attributes:
        learning_rate: Step size of AdamW.
        weight_decay: Decay of matrices; vectors and biases never decay.
        optimizer_on_cpu: Keep the optimiser's state in host memory and step there.
    """

    learning_rate: float
    weight_decay: float
    optimizer_on_cpu: bool

    def configure_optimizers(self) -> Any:
        """Build AdamW with betas (0.9, 0.95); biases and vectors never decay."""
        return build_adamw(
            self,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=self._can_fuse_optimizer(),
            on_cpu=self.optimizer_on_cpu,
        )

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
        if type(self).configure_optimizers is not AdamWOptimization.configure_optimizers:
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
            # The first group never decays.
            groups[-1]["weight_decay"] = self.weight_decay
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
