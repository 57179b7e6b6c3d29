"""What the tests on CUDA share: the device, and a tiny module on it.

`JITFLOW_GPU_TESTS_ON=cpu python -m pytest -m gpu tests/gpu` runs the same tests on a CPU, to find mistakes in the
tests themselves; it takes a quarter of an hour, since a CPU's compiler is slow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.model import Model

NAME = os.environ.get("JITFLOW_GPU_TESTS_ON", "cuda")
# Small: every test compiles for itself.
NET = {"depth": 2, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 8}
SETTINGS: dict[str, Any] = {
    "model_name": "JiT-N/4",
    "img_size": 16,
    "num_classes": 5,
    "num_sampling_steps": 4,
    "net_settings": NET,
}


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device of the tests; skip them without it."""
    if NAME == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA, and `pytest -m gpu`, without which the tests hide it")
    return torch.device(NAME)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Forget what other tests compiled: a limit on the variants of a function counts over all of them."""
    torch.compiler.reset()


@pytest.fixture
def make_module(device: torch.device) -> Callable[..., JiTLightningModule]:
    """Build a module on the device whose weights are shaken, so that its output is not 0; equal for each call."""

    def make(**settings: Any) -> JiTLightningModule:
        torch.manual_seed(0)
        module = JiTLightningModule(**{**SETTINGS, **settings})
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.05 * torch.randn_like(p))
        module.ema_params1.update({name: p.detach().clone() for name, p in module.named_parameters()})
        return module.to(device)

    return make


@pytest.fixture
def make_model(make_module: Callable[..., JiTLightningModule], device: torch.device) -> Callable[..., Model]:
    """Build a model on the device."""
    return lambda **settings: Model(make_module(**settings)).to(device)
