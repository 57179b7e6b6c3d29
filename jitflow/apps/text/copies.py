"""Copies of the training text in generated texts: the longest common part of each sample, found by hashing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Hashes = NDArray[np.uint64]
_Positions = NDArray[np.int64]
# Separator above every code point, so that no copy crosses from one text to the next.
_SEPARATOR = 0x110000
# An odd base has an inverse modulo 2^64, so the hash of any window takes two look-ups and one product.
_BASE = 0x9E3779B97F4A7C15
_FILTER_BITS = 22


class Copy(NamedTuple):
    """Longest part of a sample that also occurs in the training text.

    Attributes:
        length: Its length in characters.
        text: The part; the first of several.
    """

    length: int
    text: str


def longest_copy(samples: Sequence[str], training_texts: Sequence[str]) -> list[Copy]:
    """Find the longest part of each sample that occurs verbatim in a training text.

    A binary search over the length, for all samples with the same search bounds at once: all windows of one length are
    hashed, and equal hashes are verified character by character. Memory: about 60 bytes per character of training text.

    Args:
        samples: Sample texts, each usually much shorter than the training text.
        training_texts: The training texts.

    Returns:
        One copy for each sample; of length 0 if no character occurs.
    """
    corpus, hashed_samples = HashedText(training_texts), HashedText(samples)
    found = [Copy(0, "")] * len(samples)
    longest = min(max(map(len, samples), default=0), max(map(len, training_texts), default=0))
    # Groups of samples with equal search bounds, and the corpus positions where a copy of that length may begin.
    groups = [(np.arange(len(samples)), np.arange(len(corpus.codes)), 1, longest)]
    while groups:
        group, positions, shortest, longest = groups.pop()
        if not len(group) or shortest > longest:
            continue
        length = (shortest + longest) // 2
        matches, matched = _matches(hashed_samples.windows(group, length), hashed_samples, positions, corpus, length)
        for sample, start in matches.items():
            found[sample] = Copy(length, samples[sample][start : start + length])
        copied = np.isin(group, list(matches))
        groups.append((group[copied], matched, length + 1, longest))
        groups.append((group[~copied], positions, shortest, length - 1))
    return found


class HashedText:
    """Concatenated texts with prefix sums that give the hash of any window.

    With ``p(i)`` the sum of ``mixed(code j) base^j`` below i, the window of length L at i has the hash
    ``(p(i + L) - p(i)) base^-i``, modulo 2^64.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        between = np.array([_SEPARATOR], dtype=np.uint32)
        parts = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32) for text in texts]
        self.codes = np.concatenate([between[:0], *(piece for part in parts for piece in (part, between))])
        lengths = [len(part) for part in parts]
        self.lengths = np.array(lengths, dtype=np.int64)
        self.starts = np.cumsum([0, *(length + 1 for length in lengths)])[:-1]
        # Mixed, so that neighbouring code points do not give neighbouring hashes.
        mixed = self.codes.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(31)
        self._sums = np.zeros(len(mixed) + 1, dtype=np.uint64)
        np.cumsum(mixed * _powers(_BASE, len(mixed)), out=self._sums[1:])
        self._inverses = _powers(pow(_BASE, -1, 1 << 64), len(mixed))

    def hashes(self, positions: _Positions, length: int) -> _Hashes:
        """Hash the windows at the given positions, all of which must fit."""
        return (self._sums[positions + length] - self._sums[positions]) * self._inverses[positions]

    def windows(self, group: _Positions, length: int) -> _Positions:
        """Return the positions of all windows inside the texts of a group, text by text."""
        return np.concatenate(
            [np.zeros(0, dtype=np.int64)]
            + [np.arange(self.starts[i], self.starts[i] + max(0, self.lengths[i] - length + 1)) for i in group]
        )


def _matches(
    windows: _Positions, candidates: HashedText, positions: _Positions, corpus: HashedText, length: int
) -> tuple[dict[int, int], _Positions]:
    """Return the first copy of this length in each sample that has one, and the matching corpus positions."""
    positions = positions[: np.searchsorted(positions, len(corpus.codes) - length, side="right")]
    wanted, which = np.unique(candidates.hashes(windows, length), return_inverse=True)
    if not len(wanted) or not len(positions):
        return {}, positions[:0]
    hashes = corpus.hashes(positions, length)
    # Nearly all corpus windows fail this look-up, which is much cheaper than a search.
    shift = np.uint64(64 - _FILTER_BITS)
    possible = np.zeros(1 << _FILTER_BITS, dtype=bool)
    possible[wanted >> shift] = True
    passed = np.flatnonzero(possible[hashes >> shift])
    rank = np.minimum(np.searchsorted(wanted, hashes[passed]), len(wanted) - 1)
    hit = wanted[rank] == hashes[passed]
    matched, rank = positions[passed[hit]], rank[hit]
    order = np.argsort(rank, kind="stable")
    first, last = (np.searchsorted(rank[order], which, side=side) for side in ("left", "right"))
    owners = np.searchsorted(candidates.starts, windows, side="right") - 1
    matches: dict[int, int] = {}
    for i in np.flatnonzero(first < last):
        if (sample := int(owners[i])) in matches:
            continue
        text = candidates.codes[windows[i] : windows[i] + length]
        if any(np.array_equal(text, corpus.codes[p : p + length]) for p in matched[order[first[i] : last[i]]]):
            matches[sample] = int(windows[i] - candidates.starts[sample])
    return matches, matched


def _powers(base: int, count: int) -> _Hashes:
    """Return base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
