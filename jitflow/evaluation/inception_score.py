"""Inception Score: whether each image shows one class and the set shows many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jitflow.errors import ConfigError, DataError


class InceptionScore(NamedTuple):
    """Inception Score over the splits of a set of images.

    Attributes:
        mean: Mean over the splits, from 1 to the number of classes.
        std: Standard deviation over the splits (divisor: their number).
        of_splits: The score of each split.
    """

    mean: float
    std: float
    of_splits: tuple[float, ...] = ()


def inception_score(outputs: Tensor, splits: int = 10, *, probabilities: bool = False) -> InceptionScore:
    """Compute the Inception Score: exponential of the mean KL divergence of class probabilities, image against set.

    torch-fidelity, which the JiT release uses, shuffles the images (seed 2020) before it makes ten splits.
    Nothing is shuffled here: order the images so that every split holds all classes equally, such as 0, 1, ..., K-1, 0,
    1, ...; with one split the order does not matter and both implementations agree.

    Args:
        outputs: Logits, shape ``(N, K)``; or class probabilities, see below.
        splits: Number of consecutive splits of equal size (up to 1), from 1 to N.
        probabilities: Whether ``outputs`` are probabilities, rows in ``[0, 1]`` that sum to 1.

    Returns:
        Mean and standard deviation over the splits, computed in float64.

    Raises:
        ConfigError: If ``outputs`` is not two-dimensional or ``splits`` out of range.
        DataError: If a row is not finite, or not a distribution.

    References:
        Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    if outputs.ndim != 2 or not outputs.numel():
        raise ConfigError(f"outputs must have shape (N, K); got {tuple(outputs.shape)}")
    if not 1 <= splits <= len(outputs):
        raise ConfigError(f"splits must lie between 1 and the number of images ({len(outputs)}); got {splits}")
    wrong = int((~outputs.isfinite().all(dim=1)).sum())
    if wrong:
        raise DataError(f"the class outputs of {wrong} of {len(outputs)} images hold NaN or infinity")
    num, scores = len(outputs), []
    for i in range(splits):
        part = outputs[i * num // splits : (i + 1) * num // splits].double()
        if probabilities:
            if (part < 0).any() or ((part.sum(dim=1) - 1).abs() > 1e-3).any():
                raise DataError("probabilities must not be negative, and those of an image must sum to 1")
            p, log_p = part, part.log()
        else:
            p, log_p = part.softmax(dim=1), part.log_softmax(dim=1)
        log_q = p.mean(dim=0, keepdim=True).log()
        # A class of probability 0 adds nothing: 0 log 0 = 0.
        divergence = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=1)
        scores.append(divergence.mean().exp())
    over_splits = torch.stack(scores)
    return InceptionScore(float(over_splits.mean()), float(over_splits.std(correction=0)), tuple(over_splits.tolist()))
