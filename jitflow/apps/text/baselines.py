"""Baselines for reading noisy text without context: token frequencies, and each token's own colours.

A network that denoises text has learnt something only if it beats the best context-free reader, which sees one token's
noisy colours and knows all token frequencies but no neighbouring tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jitflow.apps.text.colour import ColourCodec
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds
from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.kid import float64_device

TABLE_ENTRIES = 1 << 22
"""Entries of the score table (positions times tokens) in memory at once; 32 MiB in float64."""
TOKENS_AT_ONCE = 1 << 15
"""Tokens whose codes are in memory at once."""


class ContextFreeScores(NamedTuple):
    """Accuracy and cross-entropy of the best context-free reader.

    Attributes:
        accuracy: Share of tokens whose most probable reading is right.
        cross_entropy: Mean negative log-probability of the right token in nats; infinite if the prior excludes an
            occurring token.
    """

    accuracy: float
    cross_entropy: float


def unigram_probabilities(ids: Tensor, vocab_size: int, smoothing: float = 0.5) -> Tensor:
    """Estimate the unigram probability of each token.

    Args:
        ids: Token ids of the training text, any shape, integers in ``[0, vocab_size)``; padding is removed
            by the caller.
        vocab_size: Number of token ids.
        smoothing: Pseudo-count of each token, at least 0; above 0 no token is impossible. One half is the estimator
            of Krichevsky and Trofimov.

    Returns:
        Probabilities, shape ``(vocab_size,)``, float64, on the CPU; their sum is 1.

    Raises:
        ConfigError: If the smoothing is negative or an id is out of range.
        DataError: If there are no tokens and no smoothing.
    """
    if smoothing < 0:
        raise ConfigError(f"smoothing must be at least 0; got {smoothing}")
    ids = ids.flatten().cpu().long()
    _check_ids(ids, vocab_size)
    weights = torch.bincount(ids, minlength=vocab_size).double() + smoothing
    if not weights.sum() > 0:
        raise DataError("there are no tokens to count; give training text, or smoothing above 0")
    return weights / weights.sum()


def unigram_accuracy(ids: Tensor, prior: Tensor, mask: Tensor | None = None) -> float:
    """Compute the accuracy of always predicting the most frequent token of the training text.

    Args:
        ids: Token ids, shape ``(B, N)``.
        prior: Probability of each token, shape ``(vocab_size,)``, from :func:`unigram_probabilities`.
        mask: Positions to count, shape ``(B, N)``, boolean; all if None.

    Returns:
        The share, in ``[0, 1]``.

    Raises:
        ConfigError: If the mask has another shape.
        DataError: If the mask selects no position.
    """
    chosen = ids[_counted_positions(ids, mask)]
    return float((chosen == int(prior.argmax())).double().mean())


def context_free_scores(
    codec: ColourCodec,
    ids: Tensor,
    t: float,
    prior: Tensor,
    *,
    noise_scale: float = 1.0,
    seeds: Sequence[int],
    mask: Tensor | None = None,
) -> ContextFreeScores:
    """Score the best context-free reader of tokens from noisy colours ``x_t = t x1 + (1 - t) noise_scale n``.

    The posterior, prior times Gaussian likelihood, is exact for every mapping; memory is bounded for any
    vocabulary. At t = 0 the accuracy is that of the most frequent token and the cross-entropy that of the prior.

    Args:
        codec: The mapping between tokens and colours.
        ids: Token ids, shape ``(B, N)``, N the codec's ``num_tokens``.
        t: Time, in ``[0, 1]``; 0 is noise, 1 is data.
        prior: Probability of each token, shape ``(vocab_size,)``.
        noise_scale: Standard deviation of the path's noise, above 0.
        seeds: One seed for each row of ``ids``. They give the same noise at every t, and as for a network with
            ``noise_from_seeds(codec.shape, seeds)``.
        mask: Positions to count, shape ``(B, N)``, boolean; all if None.

    Returns:
        Accuracy and cross-entropy over the selected positions.

    Raises:
        ConfigError: If a number is out of range or the shapes are inconsistent.
        DataError: If the mask selects no position.
    """
    if not 0 <= t <= 1 or not noise_scale > 0:
        raise ConfigError(f"t must lie in [0, 1] and noise_scale be above 0; got {t} and {noise_scale}")
    if prior.shape != (codec.vocab_size,):
        raise ConfigError(f"prior must have shape ({codec.vocab_size},), as the vocabulary; got {tuple(prior.shape)}")
    if not bool((prior >= 0).all()):
        raise ConfigError("prior holds a negative number or NaN; make it with unigram_probabilities")
    if len(seeds) != len(ids):
        raise ConfigError(f"{len(seeds)} seeds were given for {len(ids)} rows of ids; give one for each")
    device = float64_device(ids)
    counted = _counted_positions(ids, mask).to(device)
    x1 = codec.encode(ids.to(device)).double()
    true = ids.to(device)[counted].long()
    log_prior = prior.to(device, torch.float64).log()
    variance = ((1 - t) * noise_scale) ** 2
    if variance == 0:
        # Codes are distinct, so clean colours determine the token.
        certain = torch.isfinite(log_prior[true])
        return ContextFreeScores(float(certain.double().mean()), 0.0 if bool(certain.all()) else torch.inf)
    noise = noise_scale * noise_from_seeds(codec.shape, seeds, device=device).double()
    x_t = interpolate(noise, x1, torch.full((len(ids),), t, dtype=torch.float64, device=device))
    return _bayes_scores(codec, _split_by_token(codec, x_t)[counted], true, log_prior, t, variance)


def context_free_accuracy(
    codec: ColourCodec,
    ids: Tensor,
    t: float,
    prior: Tensor,
    *,
    noise_scale: float = 1.0,
    seeds: Sequence[int],
    mask: Tensor | None = None,
) -> float:
    """Return the token accuracy of the best context-free reader; see :func:`context_free_scores`."""
    return context_free_scores(codec, ids, t, prior, noise_scale=noise_scale, seeds=seeds, mask=mask).accuracy


def time_nearest_half(accuracies: Mapping[float, float]) -> float:
    """Choose the time at which the context-free reader's accuracy is nearest one half.

    There context helps most: at earlier times no reader can read, at later times every reader can.

    Args:
        accuracies: Accuracy of the context-free reader at each time.

    Returns:
        The time whose accuracy is nearest one half; the earliest of several.

    Raises:
        DataError: If ``accuracies`` is empty.
    """
    if not accuracies:
        raise DataError("there is no accuracy at any time; measure the reader without context first")
    return min(sorted(accuracies), key=lambda t: abs(accuracies[t] - 0.5))


def _bayes_scores(
    codec: ColourCodec, colours: Tensor, true: Tensor, log_prior: Tensor, t: float, variance: float
) -> ContextFreeScores:
    """Compute the posterior at each position, ``(P, D)`` colours, in blocks of the vocabulary.

    In ``|y - t c|^2`` the term ``|y|^2`` is common to all tokens, which leaves one matrix product.
    """
    best = torch.full(true.shape, -torch.inf, dtype=torch.float64, device=colours.device)
    reading, evidence = torch.full_like(true, -1), best.clone()
    score_of_true = best.clone()
    for first, codes in _codes(codec, colours.device):
        offset = log_prior[first : first + len(codes)] - codes.square().sum(dim=1) * (t * t / (2 * variance))
        rows = max(1, TABLE_ENTRIES // len(codes))
        for start in range(0, len(true), rows):
            part = slice(start, start + rows)
            scores = torch.addmm(offset, colours[part], codes.T, alpha=t / variance)
            score, winner = scores.max(dim=1)
            better = score > best[part]
            best[part] = torch.where(better, score, best[part])
            reading[part] = torch.where(better, winner + first, reading[part])
            evidence[part] = torch.logaddexp(evidence[part], scores.logsumexp(dim=1))
            local = true[part] - first
            inside = (local >= 0) & (local < len(codes))
            taken = scores.gather(1, local.clamp(0, len(codes) - 1)[:, None])[:, 0]
            score_of_true[part] = torch.where(inside, taken, score_of_true[part])
    return ContextFreeScores(
        accuracy=float((reading == true).double().mean()),
        cross_entropy=float((evidence - score_of_true).mean()),
    )


def _codes(codec: ColourCodec, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Yield the codes of the vocabulary in blocks: the first id, and colours ``(V, D)``, float64."""
    for first in range(0, codec.vocab_size, TOKENS_AT_ONCE):
        ids = torch.arange(first, min(first + TOKENS_AT_ONCE, codec.vocab_size))
        filled = F.pad(ids, (0, -len(ids) % codec.num_tokens)).view(-1, codec.num_tokens)
        yield first, _split_by_token(codec, codec.encode(filled).to(device, torch.float64)).flatten(0, 1)[: len(ids)]


def _split_by_token(codec: ColourCodec, x: Tensor) -> Tensor:
    """Split images ``(B, 3, H, W)`` into each token's colours, ``(B, N, D)``."""
    side = round((codec.img_size**2 // codec.num_tokens) ** 0.5)
    return F.unfold(x, side, stride=side).transpose(1, 2)


def _counted_positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask of positions to count, ``(B, N)``, boolean."""
    counted = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if counted.shape != ids.shape:
        raise ConfigError(f"mask must have the shape of ids, {tuple(ids.shape)}; got {tuple(counted.shape)}")
    if not counted.any():
        raise DataError("no token counts; give text, or a mask that keeps some")
    return counted


def _check_ids(ids: Tensor, vocab_size: int) -> None:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ConfigError(f"token ids must lie in [0, {vocab_size}); got {int(ids.min())} to {int(ids.max())}")
