"""Losses per sample; the caller averages over the batch, and can therefore also weight or bin them."""

from __future__ import annotations

from torch import Tensor

from jitflow.errors import ConfigError


def mse_per_sample(pred: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, in float32.

    Args:
        pred: Prediction, shape ``(B, *S)``.
        target: Target, shape ``(B, *S)``.
        weight: Weight of each element, broadcastable to ``(B, *S)``; 0 leaves an element out of the mean.
            A sample whose weights are all 0 has loss 0.

    Returns:
        Losses, shape ``(B,)``, float32.

    Raises:
        ConfigError: If the shapes differ (broadcasting would hide it).
    """
    if pred.shape != target.shape:
        raise ConfigError(f"prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    squared = (pred.float() - target.float()).square()
    if weight is None:
        return squared.flatten(1).mean(1)
    weight = weight.to(squared).expand_as(squared)
    return (squared * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-12)
