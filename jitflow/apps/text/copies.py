"""Copies of the training text in generated texts: the longest common part of each sample, found by hashing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Hashes = NDArray[np.uint64]
_Places = NDArray[np.int64]
# Above every code point: no window of a text holds it, so that no copy crosses from one text to the next.
_BETWEEN_TEXTS = 0x110000
# An odd base has an inverse modulo 2^64, which makes the hash of any window two look-ups and one product.
_BASE = 0x9E3779B97F4A7C15
_FILTER_BITS = 22


class Copy(NamedTuple):
    """The longest part of a sample that also stands in the training text.

    Attributes:
        length: Its length in characters.
        text: The part itself; the first of several.
    """

    length: int
    text: str


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
    corpus, hashed_samples = HashedText(training_texts), HashedText(samples)
    found = [Copy(0, "")] * len(samples)
    longest = min(max(map(len, samples), default=0), max(map(len, training_texts), default=0))
    # Samples that share bounds on their length, with the places of the corpus where a copy so long may begin.
    groups = [(np.arange(len(samples)), np.arange(len(corpus.codes)), 1, longest)]
    while groups:
        group, places, shortest, longest = groups.pop()
        if not len(group) or shortest > longest:
            continue
        length = (shortest + longest) // 2
        matches, met = _matches(hashed_samples.windows(group, length), hashed_samples, places, corpus, length)
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
