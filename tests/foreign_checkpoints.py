"""Checkpoints in the layouts of other training code, small: each moment names the parameter that it belongs to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jitflow.apps.images.module import JiTLightningModule

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_len": 2}
SETTINGS: dict[str, Any] = {
    "model_name": "JiT-N/4",
    "img_size": 8,
    "num_classes": 5,
    "learning_rate": 3e-4,
    "ema_decay1": 0.99,
    "noise_scale": 0.5,
    "cfg_interval": (0.1, 1.0),
    "net_settings": NET,
}
STEPS = 3


def weights_of_a_network() -> dict[str, Tensor]:
    """State dict of a module with weights that are not its initial ones."""
    torch.manual_seed(0)
    module = JiTLightningModule(**SETTINGS)
    return {name: value + 0.02 * torch.randn_like(value) for name, value in module.state_dict().items()}


def trained(weights: dict[str, Tensor]) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name in weights if name != "net.pos_embed"]


def documented_order(weights: dict[str, Tensor]) -> list[list[str]]:
    """As the documents' training code groups: by name, and what decays first."""
    plain = [name for name in trained(weights) if "bias" in name or "norm" in name]
    return [[name for name in trained(weights) if name not in plain], plain]


def mark(name: str, weights: dict[str, Tensor]) -> float:
    """The gradient that stands for a parameter."""
    return float(trained(weights).index(name) + 1)


def optimizer_over(weights: dict[str, Tensor], groups: list[list[str]], decays: list[float]) -> dict[str, Any]:
    """State of AdamW after steps in which the gradient of every parameter is its own mark."""
    parameters = {name: torch.nn.Parameter(weights[name].clone()) for name in weights}
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in names], "weight_decay": decay}
            for names, decay in zip(groups, decays, strict=True)
        ],
        lr=3e-4,
        betas=(0.9, 0.95),
    )
    for _ in range(STEPS):
        for name in trained(weights):
            parameters[name].grad = torch.full_like(parameters[name], mark(name, weights))
        optimizer.step()
    return optimizer.state_dict()


def owners(optimizer: dict[str, Any], weights: dict[str, Tensor]) -> list[str]:
    """Name the parameter that each moment of an optimiser was made by, in the order of its places."""
    places = [place for group in optimizer["param_groups"] for place in group["params"]]
    marks = [round(float(optimizer["state"][place]["exp_avg"].flatten()[0]) / (1 - 0.9**STEPS)) - 1 for place in places]
    return [trained(weights)[number] for number in marks]
