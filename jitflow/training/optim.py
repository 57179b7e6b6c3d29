"""The optimiser of every application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split trainable parameters into those that decay and those that never do (vectors and biases).

    Args:
        module: Whose parameters.
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
        module: Whose parameters.
        learning_rate: Step size, positive.
        weight_decay: Decoupled decay of matrices.
        betas: Decay of the two moments.
        fused: One kernel for all parameters (about 4 times faster, on the CPU too).
        on_cpu: Keep the moments in the memory of the host and step there, see :class:`HostAdamW`.

    Returns:
        The optimiser.
    """
    groups = parameter_groups(module, weight_decay)
    if on_cpu:
        return HostAdamW(groups, lr=learning_rate, betas=betas, eps=1e-8)
    return AdamW(groups, lr=learning_rate, betas=betas, eps=1e-8, fused=fused)


class HostAdamW(AdamW):
    """AdamW whose moments stay in the host's memory, 8 bytes a parameter less on the device.

    Each step brings the gradients to the host, steps there with the fused kernel, and brings the weights back. It gives
    what AdamW gives, and its state dicts are AdamW's, in both directions.

    Args:
        groups: Parameter groups.
        settings: Arguments of :class:`torch.optim.AdamW`, but not ``fused`` or ``foreach``.
    """

    def __init__(self, groups: list[dict[str, object]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._twins: dict[Tensor, Tensor] = {
            p: nn.Parameter(torch.empty_like(p, device="cpu")) for group in self.param_groups for p in group["params"]
        }
        self._host = AdamW(
            [
                {**group, "params": [self._twins[p] for p in group["params"]], "fused": True}
                for group in self.param_groups
            ]
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step once; ``closure`` computes the loss again, with gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for ours, theirs in zip(self.param_groups, self._host.param_groups, strict=True):
            # A schedule moves our learning rate.
            theirs.update({name: value for name, value in ours.items() if name not in ("params", "fused", "foreach")})
        for parameter, twin in self._twins.items():
            twin.copy_(parameter)
            twin.grad = None if parameter.grad is None else parameter.grad.to("cpu", twin.dtype)
        self._host.step()
        for parameter, twin in self._twins.items():
            if twin.grad is not None:
                parameter.copy_(twin)
                self.state[parameter] = self._host.state[twin]
            twin.grad = None
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load an AdamW's state, into the host's memory only.

        Args:
            state_dict: As ``state_dict`` of this class or of AdamW gives it.
        """
        self._host.load_state_dict(state_dict)
        for ours, theirs in zip(self.param_groups, self._host.param_groups, strict=True):
            ours.update({name: value for name, value in theirs.items() if name not in ("params", "fused", "foreach")})
            theirs.update(fused=True, foreach=None)
        for parameter, twin in self._twins.items():
            if twin in self._host.state:
                self.state[parameter] = self._host.state[twin]
