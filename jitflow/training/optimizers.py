"""Optimisers by name: AdamW, Muon with AdamW, and either with its state in host memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

OptimizerName = Literal["adamw", "muon"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
Groups = list[dict[str, Any]]
# What an optimiser of a device has, and its counterpart in host memory has not.
_KERNELS = ("fused", "foreach")


def parameter_groups(
    module: nn.Module, weight_decay: float, *, matrices: Sequence[Tensor] = (), named: bool = False
) -> Groups:
    """Split trainable parameters into groups: without weight decay (vectors and biases), with it, and ``matrices``.

    Args:
        module: Module with the parameters.
        weight_decay: Decay of all but the first group.
        matrices: Parameters of the third group; without any there are two.
        named: Record the names in the groups, and so in state dicts.

    Returns:
        The groups, no-decay first as in the JiT release, each in the order of ``named_parameters``.
    """
    groups: Groups = [{"params": [], "weight_decay": decay} for decay in (0.0, weight_decay, weight_decay)]
    names: list[list[str]] = [[], [], []]
    apart = {id(matrix) for matrix in matrices}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            place = 2 if id(parameter) in apart else int(not (parameter.ndim < 2 or name.endswith(".bias")))
            groups[place]["params"].append(parameter)
            names[place].append(name)
    if named:
        groups = [{**group, "param_names": of_group} for group, of_group in zip(groups, names, strict=True)]
    return groups if matrices else groups[:2]


def build_optimizer(
    groups: Groups,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    fused: bool = True,
    on_cpu: bool = False,
) -> Optimizer:
    """Build AdamW over two groups, or Muon with AdamW over three.

    Args:
        groups: From :func:`parameter_groups`.
        learning_rate: Step size, positive.
        betas: Decay of the two moments of AdamW.
        fused: Use one kernel for all parameters of AdamW (about 4 times faster, on the CPU too).
        on_cpu: Keep the state in host memory and step there, see :class:`HostOptimizer`.

    Returns:
        The optimiser.
    """

    def build(groups: Groups, fused: bool = True) -> Optimizer:
        settings: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": 1e-8, "fused": fused}
        return MuonWithAdamW(groups, **settings) if len(groups) > 2 else AdamW(groups, **settings)

    return HostOptimizer(groups, build) if on_cpu else build(groups, fused)


class MuonWithAdamW(Optimizer):
    """Muon on matrices and AdamW on all else, as one optimiser with one state dict.

    Muon's step is scaled to the root mean square of AdamW's, so that learning rates and weight decays of AdamW can be
    kept.

    Args:
        groups: Groups of AdamW, and as the last one that of Muon, which holds matrices only.
        settings: Arguments of :class:`torch.optim.AdamW`; its learning rate is Muon's too.

    References:
        Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv:2502.16982
        (scale of the step).
    """

    def __init__(self, groups: Groups, **settings: Any) -> None:
        adamw = AdamW(groups[:-1], **settings)
        muon = Muon([groups[-1]], lr=settings["lr"], adjust_lr_fn="match_rms_adamw")
        super().__init__([*adamw.param_groups, *muon.param_groups], {})
        self._parts = (adamw, muon)
        self._share()

    def _share(self) -> None:
        """Let both parts work on the groups and the state of the whole."""
        adamw, muon = self._parts
        adamw.param_groups, muon.param_groups = self.param_groups[:-1], self.param_groups[-1:]
        adamw.state = muon.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one optimiser step; ``closure`` recomputes loss and gradients."""
        loss = _loss_of(closure)
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class.

        Args:
            state_dict: The state dict.
        """
        super().load_state_dict(state_dict)
        self._share()
        for part in self._parts:
            for group in part.param_groups:
                # Options that the torch of the file did not have.
                for name, value in part.defaults.items():
                    group.setdefault(name, value)


class HostOptimizer(Optimizer):
    """An optimiser whose state stays in host memory, which saves 8 bytes per parameter of AdamW on the device.

    Each step copies the gradients to the host, steps there with the fused kernel, and copies the weights back. Results
    equal those of the optimiser itself, and state dicts are interchangeable with it.

    Args:
        groups: Parameter groups.
        build: Builds the optimiser from parameter groups.
    """

    def __init__(self, groups: Groups, build: Callable[[Groups], Optimizer]) -> None:
        self._host_copies: dict[Tensor, Tensor] = {
            p: nn.Parameter(torch.empty_like(p, device="cpu")) for group in groups for p in group["params"]
        }
        self._host = build([{**group, "params": [self._host_copies[p] for p in group["params"]]} for group in groups])
        theirs = [{**group, **{name: None for name in _KERNELS if name in group}} for group in self._host.param_groups]
        super().__init__([{**h, "params": g["params"]} for h, g in zip(theirs, groups, strict=True)], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one optimiser step; ``closure`` recomputes loss and gradients."""
        loss = _loss_of(closure)
        for ours, theirs in zip(self.param_groups, self._host.param_groups, strict=True):
            # The schedule changes the learning rate of our groups only.
            theirs.update(_without_kernels(ours))
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
        """Load a state dict into host memory only.

        Args:
            state_dict: State dict of this class or of the optimiser itself.
        """
        self._host.load_state_dict(state_dict)
        for ours, theirs in zip(self.param_groups, self._host.param_groups, strict=True):
            ours.update(_without_kernels(theirs))
            if "fused" in theirs:
                theirs.update(fused=True, foreach=None)
        for parameter, copy in self._host_copies.items():
            if copy in self._host.state:
                self.state[parameter] = self._host.state[copy]


def _without_kernels(group: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a group that do not depend on where it is."""
    return {name: value for name, value in group.items() if name not in ("params", *_KERNELS)}


def _loss_of(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
