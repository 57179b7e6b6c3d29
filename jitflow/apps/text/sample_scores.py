"""Scores of generated texts that need no model: valid codes, distance to codes, variety and real words."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jitflow.apps.text.copies import Copy, longest_copy
from jitflow.errors import ConfigError, DataError

_WORD = re.compile(r"[^\W\d_]+")


class DistanceSummary(NamedTuple):
    """Summary of the root-mean-square distances between sample colours and their codes, in units of [-1, 1].

    Attributes:
        mean: Mean over the positions.
        median: Median over the positions.
        percentile_95: 95th percentile over the positions.
        largest: Largest distance.
    """

    mean: float
    median: float
    percentile_95: float
    largest: float


def valid_code_share(ids: Tensor, vocab_size: int, *, end_id: int | None = None, pad_id: int | None = None) -> float:
    """Compute the share of positions in the texts whose code is a valid token.

    A text ends with its first end token, included; without one it is the whole row. Positions after the end do not
    count.

    Args:
        ids: Token ids as read from the colours, shape ``(B, N)``; an id of at least ``vocab_size`` is invalid.
        vocab_size: Number of token ids.
        end_id: Id of the end token; None if there is none.
        pad_id: Id of the padding token, invalid before the end; None if there is none.

    Returns:
        The share, in ``[0, 1]``.

    Raises:
        DataError: If there are no positions.
    """
    valid, in_text = valid_codes(ids, vocab_size, end_id, pad_id)
    return float(valid.sum() / in_text.sum())


def valid_codes(
    ids: Tensor, vocab_size: int, end_id: int | None = None, pad_id: int | None = None
) -> tuple[Tensor, Tensor]:
    """Count the positions in each text, and those whose code is a valid token; arguments of :func:`valid_code_share`.

    Returns:
        Valid positions and all positions, each of shape ``(B,)``.
    """
    if not ids.numel():
        raise DataError("there are no samples to judge; generate some")
    valid = (ids >= 0) & (ids < vocab_size)
    if pad_id is not None:
        valid &= ids != pad_id
    in_text = torch.ones_like(valid)
    if end_id is not None:
        ended = (ids == end_id).cumsum(dim=1) > 0
        in_text[:, 1:] = ~ended[:, :-1]
    return (valid & in_text).sum(dim=1), in_text.sum(dim=1)


def distance_summary(distances: Tensor, mask: Tensor | None = None) -> DistanceSummary:
    """Summarise the distances between sample colours and their codes.

    Args:
        distances: From ``ColourCodec.distance``, shape ``(B, N)``.
        mask: Positions to count, shape ``(B, N)``, boolean; all if None.

    Returns:
        Mean, median, 95th percentile and largest.

    Raises:
        ConfigError: If the mask has another shape.
        DataError: If the mask selects no position.
    """
    if mask is not None and mask.shape != distances.shape:
        raise ConfigError(f"mask must have shape {tuple(distances.shape)}, as distances; got {tuple(mask.shape)}")
    counted = (distances.flatten() if mask is None else distances[mask.bool()]).double().cpu().numpy()
    if not len(counted):
        raise DataError("no place counts; generate samples, or give a mask that keeps some places")
    median, percentile_95 = np.quantile(counted, (0.5, 0.95))
    return DistanceSummary(float(counted.mean()), float(median), float(percentile_95), float(counted.max()))


def distinct_n(sequences: Iterable[Sequence[Hashable]], n: int) -> float:
    """Compute distinct-n: the share of distinct n-grams among all n-grams of the token sequences.

    It decreases with the amount of text: compare only collections of equal size.

    Args:
        sequences: Lists of words or token ids, or strings, whose tokens are characters.
        n: Length of the n-grams, at least 1.

    Returns:
        Distinct n-grams over all n-grams, in ``(0, 1]``; 0 if all sequences are shorter than n.

    Raises:
        ConfigError: If n is below 1.

    References:
        Li et al. 2016, arXiv:1510.03055.
    """
    if n < 1:
        raise ConfigError(f"n must be at least 1; got {n}")
    seen: set[tuple[Hashable, ...]] = set()
    total = 0
    for sequence in sequences:
        # zip stops with the shortest of the shifted sequences.
        seen.update(zip(*(sequence[i:] for i in range(n)), strict=False))
        total += max(0, len(sequence) - n + 1)
    return len(seen) / total if total else 0.0


def unigram_entropy(sequences: Iterable[Sequence[Hashable]]) -> float:
    """Compute the mean entropy of the tokens within a sequence, in nats, over all non-empty sequences.

    It is low for repetitive samples. It grows with the length: compare only texts of similar length.

    Args:
        sequences: Lists of words or token ids, or strings.

    Returns:
        At least 0.

    Raises:
        DataError: If all sequences are empty.
    """
    entropies = []
    for sequence in sequences:
        if len(sequence):
            counts: dict[Hashable, int] = {}
            for token in sequence:
                counts[token] = counts.get(token, 0) + 1
            shares = np.array(list(counts.values())) / len(sequence)
            entropies.append(float(-(shares * np.log(shares)).sum()))
    if not entropies:
        raise DataError("the entropy of no text is not defined; give at least one that is not empty")
    return sum(entropies) / len(entropies)


def words(text: str) -> list[str]:
    """Split a text into words: runs of letters, in lower case."""
    return _WORD.findall(text.lower())


def real_word_share(samples: Iterable[str], known: Collection[str]) -> float:
    """Compute the share of known words in sample texts.

    Args:
        samples: Texts.
        known: Words, from :func:`words` of the training text; a set.

    Returns:
        The share over all words, in ``[0, 1]``; 0 if the samples hold no word.
    """
    sample_words = [word in known for text in samples for word in words(text)]
    return sum(sample_words) / len(sample_words) if sample_words else 0.0


def describe_samples(
    samples: Sequence[str], training_texts: Sequence[str], copies: Sequence[Copy] | None = None
) -> dict[str, float]:
    """Compute the scores of texts that need no model, for a table.

    Args:
        samples: Generated texts, or held-out ones for comparison.
        training_texts: The training texts.
        copies: Longest copy in each sample; searched for by default.

    Returns:
        ``distinct_1``, ``distinct_2``, ``distinct_3`` and ``unigram_entropy`` over words, ``real_words`` (a share),
        ``longest_copy_mean`` and ``longest_copy_max`` in characters.

    Raises:
        DataError: If there are no samples.
    """
    if not samples:
        raise DataError("there are no samples to judge; generate some")
    split = [words(text) for text in samples]
    lengths = [copy.length for copy in (longest_copy(samples, training_texts) if copies is None else copies)]
    return {
        **{f"distinct_{n}": distinct_n(split, n) for n in (1, 2, 3)},
        "unigram_entropy": unigram_entropy(split) if any(split) else 0.0,
        "real_words": real_word_share(samples, {word for text in training_texts for word in words(text)}),
        "longest_copy_mean": sum(lengths) / len(lengths),
        "longest_copy_max": float(max(lengths)),
    }
