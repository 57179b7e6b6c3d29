"""Losses per sample; the caller averages over the batch and can also weight or bin them."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

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


def pseudo_huber(squared: Tensor, *, scale: float) -> Tensor:
    """Pseudo-Huber loss from a mean squared error: ``sqrt(m + c^2) - c``.

    Its gradient has the same length however wrong a sample is, unless the error is below ``c``.

    Args:
        squared: ``m``, such as from :func:`mse_per_sample`, any shape.
        scale: ``c``, in units of the data, positive.

    Returns:
        Losses, shape of ``squared``.

    References:
        Song & Dhariwal 2023, arXiv:2310.14189, section 3.3; here of a mean, so that ``c`` does not grow with the size.
    """
    return (squared + scale**2).sqrt() - scale


def cosine_per_sample(pred: Tensor, target: Tensor) -> Tensor:
    """Direction loss of each sample: ``1 - cos`` over the channels, averaged over positions, in float32.

    Args:
        pred: Prediction, shape ``(B, C, *S)``.
        target: Target, shape ``(B, C, *S)``.

    Returns:
        Losses, shape ``(B,)``, float32, in ``[0, 2]``.

    Raises:
        ConfigError: If the shapes differ (broadcasting would hide it).

    References:
        Yao et al. 2025, arXiv:2501.01423, section 4 ("velocity direction loss").
    """
    if pred.shape != target.shape:
        raise ConfigError(f"prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    return (1 - cosine_similarity(pred.float(), target.float(), dim=1)).flatten(1).mean(1)
