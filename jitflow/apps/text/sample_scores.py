"""What generated texts are like: valid codes, sure colours, variety, real words, copies of the training text."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jitflow.errors import ConfigError, DataError

_WORD = re.compile(r"[^\W\d_]+")
_Hashes = NDArray[np.uint64]
_Places = NDArray[np.int64]
# Above every code point: no window of a text holds it, so that no copy crosses from one text to the next.
_BETWEEN_TEXTS = 0x110000
# An odd base has an inverse modulo 2^64, which makes the hash of any window two look-ups and one product.
_BASE = 0x9E3779B97F4A7C15
_FILTER_BITS = 22


class DistanceSummary(NamedTuple):
    """How far the colours of samples are from the codes they are read as, root mean square, in units of [-1, 1].

    Attributes:
        mean: Mean over the places.
        median: Half of the places are nearer.
        percentile_95: 95 % of the places are nearer.
        largest: The farthest place.
    """

    mean: float
    median: float
    percentile_95: float
    largest: float


class Copy(NamedTuple):
    """The longest part of a sample that also stands in the training text.

    Attributes:
        length: Its length in characters.
        text: The part itself; the first of several.
    """

    length: int
    text: str


def valid_code_share(ids: Tensor, vocab_size: int, *, end_id: int | None = None, pad_id: int | None = None) -> float:
    """Share of the places of the texts that hold a token of text.

    A text reaches up to its first end token, included; without one it is the whole row. What stands behind the end is
    not read and does not count.

    Args:
        ids: Token ids as read from the colours, shape ``(B, N)``; an id of at least ``vocab_size`` is no token.
        vocab_size: Number of token ids.
        end_id: The token that ends a text; None if there is none.
        pad_id: The token that fills up behind the end, invalid before it; None if there is none.

    Returns:
        The share, in ``[0, 1]``.

    Raises:
        DataError: If there are no places.
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
    return float(valid[in_text].double().mean())


def distance_summary(distances: Tensor, mask: Tensor | None = None) -> DistanceSummary:
    """Summarise how far places are from their codes.

    Args:
        distances: From ``ColourCodec.distance``, shape ``(B, N)``.
        mask: Places that count, shape ``(B, N)``, boolean; all if None.

    Returns:
        Mean, median, 95th percentile and largest.

    Raises:
        ConfigError: If the mask has another shape.
        DataError: If no place counts.
    """
    if mask is not None and mask.shape != distances.shape:
        raise ConfigError(f"mask must have shape {tuple(distances.shape)}, as distances; got {tuple(mask.shape)}")
    counted = (distances.flatten() if mask is None else distances[mask.bool()]).double().cpu().numpy()
    if not len(counted):
        raise DataError("no place counts; generate samples, or give a mask that keeps some places")
    median, percentile_95 = np.quantile(counted, (0.5, 0.95))
    return DistanceSummary(float(counted.mean()), float(median), float(percentile_95), float(counted.max()))


def distinct_n(sequences: Iterable[Sequence[Hashable]], n: int) -> float:
    """Share of the runs of n tokens that are not a repetition, over all sequences together.

    It falls with the amount of text: compare only collections of the same size.

    Args:
        sequences: Lists of words or token ids, or strings, whose tokens are characters.
        n: Length of the runs, at least 1.

    Returns:
        Distinct runs over all runs, in ``(0, 1]``; 0 if no sequence is as long as n.

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
        # The shifted sequences end one after the other; the shortest ends the runs.
        seen.update(zip(*(sequence[i:] for i in range(n)), strict=False))
        total += max(0, len(sequence) - n + 1)
    return len(seen) / total if total else 0.0


def unigram_entropy(sequences: Iterable[Sequence[Hashable]]) -> float:
    """Entropy of the tokens within a sequence, in nats, on average over the sequences that are not empty.

    Low where samples repeat themselves. It grows with the length: compare only texts of about one length.

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
    """Split a text into its words: runs of letters, in lower case."""
    return _WORD.findall(text.lower())


def real_word_share(samples: Iterable[str], known: Collection[str]) -> float:
    """Share of the words of samples that are known.

    Args:
        samples: Texts.
        known: Words, from :func:`words` of the training text; a set.

    Returns:
        The share over all words, in ``[0, 1]``; 0 if the samples hold no word.
    """
    said = [word in known for text in samples for word in words(text)]
    return sum(said) / len(said) if said else 0.0


def describe_samples(samples: Sequence[str], training_texts: Sequence[str]) -> dict[str, float]:
    """Measure texts in the ways that need no model, for a table.

    Args:
        samples: Generated texts, or held-out ones to set beside them.
        training_texts: The texts trained on.

    Returns:
        ``distinct_1``, ``distinct_2``, ``distinct_3`` and ``unigram_entropy`` over words, ``real_words`` (a share),
        ``longest_copy_mean`` and ``longest_copy_max`` in characters.

    Raises:
        DataError: If there are no samples.
    """
    if not samples:
        raise DataError("there are no samples to judge; generate some")
    split = [words(text) for text in samples]
    copies = [copy.length for copy in longest_copy(samples, training_texts)]
    return {
        **{f"distinct_{n}": distinct_n(split, n) for n in (1, 2, 3)},
        "unigram_entropy": unigram_entropy(split) if any(split) else 0.0,
        "real_words": real_word_share(samples, {word for text in training_texts for word in words(text)}),
        "longest_copy_mean": sum(copies) / len(copies),
        "longest_copy_max": float(max(copies)),
    }


def longest_copy(samples: Sequence[str], training_texts: Sequence[str]) -> list[Copy]:
    """Find the longest part of each sample that stands word for word in a training text.

    A binary search over the length, for all samples in one go as long as their lengths agree: all windows of one
    length are hashed, and a hash met on both sides counts only if the characters agree too. Needs about 60 bytes a
    character of training text.

    Args:
        samples: Texts, each usually far shorter than the training text.
        training_texts: The texts trained on.

    Returns:
        One copy for each sample; of length 0 if not even a character occurs.
    """
    corpus, tried = HashedText(training_texts), HashedText(samples)
    found = [Copy(0, "")] * len(samples)
    longest = min(max(map(len, samples), default=0), max(map(len, training_texts), default=0))
    # Samples that share bounds on their length, with the places of the corpus where a copy so long may begin.
    groups = [(np.arange(len(samples)), np.arange(len(corpus.codes)), 1, longest)]
    while groups:
        group, places, shortest, longest = groups.pop()
        if not len(group) or shortest > longest:
            continue
        length = (shortest + longest) // 2
        matches, met = _matches(tried.windows(group, length), tried, places, corpus, length)
        for sample, start in matches.items():
            found[sample] = Copy(length, samples[sample][start : start + length])
        copied = np.isin(group, list(matches))
        groups.append((group[copied], met, length + 1, longest))
        groups.append((group[~copied], places, shortest, length - 1))
    return found


class HashedText:
    """Texts in a row with sums that give the hash of any window.

    With ``p(i)`` the sum of ``mixed(code j) base^j`` below i, the window of length L at i has the hash
    ``(p(i + L) - p(i)) base^-i``, modulo 2^64.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        between = np.array([_BETWEEN_TEXTS], dtype=np.uint32)
        parts = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) for text in texts]
        self.codes = np.concatenate([between[:0], *(piece for part in parts for piece in (part, between))])
        lengths = [len(part) for part in parts]
        self.lengths = np.array(lengths, dtype=np.int64)
        self.starts = np.cumsum([0, *(length + 1 for length in lengths)])[:-1]
        # Neighbouring code points shall not make neighbouring hashes.
        mixed = self.codes.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(31)
        self._sums = np.zeros(len(mixed) + 1, dtype=np.uint64)
        np.cumsum(mixed * _powers(_BASE, len(mixed)), out=self._sums[1:])
        self._inverses = _powers(pow(_BASE, -1, 1 << 64), len(mixed))

    def hashes(self, places: _Places, length: int) -> _Hashes:
        """Hash the windows that begin at some places, all of which must fit."""
        return (self._sums[places + length] - self._sums[places]) * self._inverses[places]

    def windows(self, group: _Places, length: int) -> _Places:
        """Return the places of all windows inside the texts of a group, text by text."""
        return np.concatenate(
            [np.zeros(0, dtype=np.int64)]
            + [np.arange(self.starts[i], self.starts[i] + max(0, self.lengths[i] - length + 1)) for i in group]
        )


def _matches(
    windows: _Places, tried: HashedText, places: _Places, corpus: HashedText, length: int
) -> tuple[dict[int, int], _Places]:
    """Return where each sample that has a copy of this length has its first, and the places of the corpus met."""
    places = places[: np.searchsorted(places, len(corpus.codes) - length, side="right")]
    wanted, which = np.unique(tried.hashes(windows, length), return_inverse=True)
    if not len(wanted) or not len(places):
        return {}, places[:0]
    hashes = corpus.hashes(places, length)
    # Nearly all windows of the corpus fail this look-up, which costs far less than a search.
    shift = np.uint64(64 - _FILTER_BITS)
    possible = np.zeros(1 << _FILTER_BITS, dtype=bool)
    possible[wanted >> shift] = True
    passed = np.flatnonzero(possible[hashes >> shift])
    rank = np.minimum(np.searchsorted(wanted, hashes[passed]), len(wanted) - 1)
    hit = wanted[rank] == hashes[passed]
    met, rank = places[passed[hit]], rank[hit]
    order = np.argsort(rank, kind="stable")
    first, last = (np.searchsorted(rank[order], which, side=side) for side in ("left", "right"))
    owners = np.searchsorted(tried.starts, windows, side="right") - 1
    matches: dict[int, int] = {}
    for i in np.flatnonzero(first < last):
        if (sample := int(owners[i])) in matches:
            continue
        text = tried.codes[windows[i] : windows[i] + length]
        if any(np.array_equal(text, corpus.codes[p : p + length]) for p in met[order[first[i] : last[i]]]):
            matches[sample] = int(windows[i] - tried.starts[sample])
    return matches, met


def _powers(base: int, count: int) -> _Hashes:
    """Return base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
