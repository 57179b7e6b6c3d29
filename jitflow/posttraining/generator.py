"""Generate with few steps and with gradients, as sampling does without them."""

from __future__ import annotations

import torch
from torch import Tensor

from jitflow.core.solver import integrate
from jitflow.core.times import time_grid
from jitflow.training.loss import FlowLoss


def generate_pixels(module: FlowLoss, noise: Tensor, labels: Tensor, num_steps: int) -> Tensor:
    """Generate images with Euler's method in equal steps, without guidance.

    It equals sampling with ``sampling_method="euler"``, ``cfg_scale=1`` and ``num_sampling_steps=num_steps``, but for
    the rounding to whole grey levels.

    Args:
        module: A model on pixels, in evaluation mode.
        noise: Standard normal noise, shape ``(B, C, H, W)``.
        labels: Classes, shape ``(B,)``.
        num_steps: Network calls of an image.

    Returns:
        Grey levels in ``[0, 255]``, shape ``(B, C, H, W)``, float32.
    """

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return module.plain_velocity(x, t.to(x.device), labels)

    x = integrate(velocity, module.noise_scale * noise, time_grid(num_steps), solver="euler")
    return ((x.float() + 1) * 127.5).clamp(0, 255)


class _KnownGradient(torch.autograd.Function):
    """A number whose gradient in the parameters was computed before."""

    @staticmethod
    def forward(ctx: object, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    def backward(ctx: object, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(outer[0] * gradient for gradient in ctx.gradients))  # type: ignore[attr-defined]


def with_gradient(value: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Return a loss whose backward pass gives the parameters known gradients.

    So a step that runs backward in several parts, which Lightning cannot, is one loss to it: clipping, scaling and the
    averaging over processes are its own.

    Args:
        value: The loss, 0-d.
        parameters: The parameters.
        gradients: The gradient of each.
    """
    result: Tensor = _KnownGradient.apply(value, gradients, *parameters)
    return result
