"""N-gram language model of tokens with interpolated modified Kneser-Ney smoothing.

It judges samples independently of the network: fit it on one half of the held-out documents and compare the samples'
perplexity with that of the other half (a lower bound from real text) and of shuffled text (the same tokens without
their order). Repeating frequent phrases also lowers perplexity, so read it with the entropy and the distinct n-grams of
:mod:`jitflow.apps.text.sample_scores`.

References:
    Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from jitflow.errors import ConfigError, DataError

Tokens = NDArray[np.int64]
_T = TypeVar("_T")
# Used if counts are too few to estimate discounts, as for the few distinct bytes.
_DEFAULT_DISCOUNTS = (0.5, 1.0, 1.5)


class _Level(NamedTuple):
    """Counts of the n-grams of one length k.

    Attributes:
        keys: ``context * vocab_size + token`` of each n-gram, sorted; the context is the index of its first k - 1
            tokens in the level below.
        discounted: Count minus discount of each n-gram, divided by the count of its context.
        backoff: Weight of the shorter context, for each context; 1 if no token followed it.
    """

    keys: Tokens
    discounted: NDArray[np.float64]
    backoff: NDArray[np.float64]


class NgramModel:
    """N-gram model: the probability of each token given the ``order - 1`` tokens before it.

    At the beginning of a sequence, which may come from the middle of a text, the context is shorter; the end is only
    predicted if the sequence has a token for it. For every context the probabilities of all tokens sum to 1, and none
    is 0.

    Create one with :meth:`fit`.
    """

    def __init__(self, levels: Sequence[_Level], vocab_size: int) -> None:
        self._levels = tuple(levels)
        self.vocab_size = vocab_size

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self._levels)

    @classmethod
    def fit(cls, sequences: Iterable[Sequence[int] | Tokens], order: int, vocab_size: int) -> NgramModel:
        """Fit an n-gram model by counting all n-grams of up to ``order`` tokens.

        Args:
            sequences: Token ids of each text, integers in ``[0, vocab_size)``; n-grams do not cross sequences. For
                a measure that does not depend on the tokenizer use :func:`byte_sequences`.
            order: Length of the longest n-grams, at least 1; limited to the longest sequence.
            vocab_size: Number of token ids.

        Returns:
            The model.

        Raises:
            ConfigError: If the order or an id is out of range.
            DataError: If there are no tokens.
        """
        if order < 1 or vocab_size < 1:
            raise ConfigError(f"order and vocab_size must be at least 1; got {order} and {vocab_size}")
        tokens, _, position = _join(sequences, vocab_size)
        if not len(tokens):
            raise DataError("there are no tokens to fit an n-gram model on; give text")
        # N-grams longer than the longest sequence have no counts; the longest that have use raw counts.
        order = min(order, int(position.max()) + 1)
        levels: list[_Level] = []
        runs, num_contexts = np.zeros_like(tokens), 1
        for k in range(1, order + 1):
            # N-grams of length k end at positions with k - 1 tokens before them.
            inside = position >= k - 1
            context = _previous(runs) if k > 1 else runs
            keys, found = np.unique(context[inside] * vocab_size + tokens[inside], return_inverse=True)
            runs = np.full_like(tokens, -1)
            runs[inside] = found
            if k == order:
                counts = np.bincount(found, minlength=len(keys))
            else:
                counts = _left_neighbours(runs, tokens, position, k, vocab_size, len(keys))
            levels.append(_discount(keys, counts, num_contexts, vocab_size))
            num_contexts = len(keys)
        return cls(levels, vocab_size)

    def log_prob(self, sequences: Iterable[Sequence[int] | Tokens]) -> list[NDArray[np.float64]]:
        """Return the log-probability of each token given the previous tokens of its sequence.

        Args:
            sequences: Token ids of each text, integers in ``[0, vocab_size)``.

        Returns:
            An array for each sequence, of its length, in nats.

        Raises:
            ConfigError: If an id is out of range.
        """
        tokens, lengths, position = _join(sequences, self.vocab_size)
        probability = np.full(len(tokens), 1 / self.vocab_size)
        runs = np.zeros_like(tokens)
        for k, level in enumerate(self._levels, start=1):
            context = _previous(runs) if k > 1 else runs
            known = (context >= 0) & (position >= k - 1)
            runs = np.where(known, _find(level.keys, context * self.vocab_size + tokens), -1)
            # Positions without a known context keep the estimate of the shorter context.
            probability = np.where(known, level.backoff[context], 1) * probability
            probability += np.where(runs >= 0, level.discounted[runs], 0)
        return np.split(np.log(probability), np.cumsum(lengths)[:-1]) if len(lengths) else []

    def perplexity(self, sequences: Iterable[Sequence[int] | Tokens]) -> float:
        """Compute the perplexity: exponential of the mean negative log-probability of a token.

        Args:
            sequences: Token ids of each text; every token has equal weight.

        Returns:
            The perplexity, at least 1; ``vocab_size`` for a uniform model.

        Raises:
            ConfigError: If an id is out of range.
            DataError: If there are no tokens.
        """
        log_probs = self.log_prob(sequences)
        total = sum(len(part) for part in log_probs)
        if not total:
            raise DataError("the perplexity of no tokens is not defined; give text")
        return float(np.exp(-sum(float(part.sum()) for part in log_probs) / total))


def perplexity_table(
    model: NgramModel, collections: Mapping[str, Iterable[Sequence[int] | Tokens]]
) -> dict[str, float]:
    """Compute the perplexity of several collections of texts under one model.

    Args:
        model: Fitted on one half of the held-out documents.
        collections: Sequences by name: ``samples``, ``held_out`` (the other half, not the one fitted on) and
            ``shuffled`` (from :func:`shuffle_tokens`).

    Returns:
        Perplexity by name.

    Raises:
        DataError: If a collection has no tokens; names it.
    """
    table: dict[str, float] = {}
    for name, sequences in collections.items():
        try:
            table[name] = model.perplexity(sequences)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    return table


def halves(documents: Sequence[_T]) -> tuple[list[_T], list[_T]]:
    """Split documents alternately into two halves: one to fit the n-gram model, one to compare with.

    Args:
        documents: At least two whole documents, so that none is split between the halves.

    Returns:
        Documents at even positions, and those at odd positions.

    Raises:
        DataError: If there are fewer than two.
    """
    if len(documents) < 2:
        raise DataError(f"{len(documents)} documents cannot be halved; hold out at least two")
    return list(documents[::2]), list(documents[1::2])


def shuffle_tokens(sequences: Iterable[Sequence[int] | Tokens], *, seed: int) -> list[Tokens]:
    """Shuffle the tokens of each sequence, deterministically for a seed."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(np.asarray(tokens, dtype=np.int64)) for tokens in sequences]


def byte_sequences(texts: Iterable[str]) -> list[Tokens]:
    """Encode texts as UTF-8 bytes, ids below 256, so that models of different tokenizers can be compared."""
    return [np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64) for text in texts]


def _join(sequences: Iterable[Sequence[int] | Tokens], vocab_size: int) -> tuple[Tokens, list[int], Tokens]:
    """Concatenate all sequences; return the tokens, the sequence lengths, and each token's position."""
    parts = [np.asarray(tokens, dtype=np.int64).reshape(-1) for tokens in sequences]
    tokens = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ConfigError(f"token ids must lie in [0, {vocab_size}); got {tokens.min()} to {tokens.max()}")
    position = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(len(part)) for part in parts)])
    return tokens, [len(part) for part in parts], position


def _previous(runs: Tokens) -> Tokens:
    """Return the n-gram that ends just before each token (shift by one position)."""
    return np.concatenate([[-1], runs])[:-1]


def _left_neighbours(
    runs: Tokens, tokens: Tokens, position: Tokens, k: int, vocab_size: int, num_runs: int
) -> NDArray[np.int64]:
    """Count the distinct tokens that precede each n-gram of length k.

    The beginning of a sequence counts as one more token; else an n-gram seen only there would have no count.
    """
    ends = np.flatnonzero(position >= k - 1)
    left = np.where(position[ends] >= k, tokens[ends - k], vocab_size)
    pairs = np.unique(runs[ends] * (vocab_size + 1) + left)
    return np.bincount(pairs // (vocab_size + 1), minlength=num_runs)


def _discount(keys: Tokens, counts: NDArray[np.int64], num_contexts: int, vocab_size: int) -> _Level:
    """Discount every count in favour of the shorter context."""
    discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    contexts = keys // vocab_size
    totals = np.bincount(contexts, weights=counts, minlength=num_contexts)
    freed = np.bincount(contexts, weights=discounts, minlength=num_contexts)
    return _Level(
        keys=keys,
        discounted=(counts - discounts) / totals[contexts],
        backoff=np.divide(freed, totals, out=np.ones(num_contexts), where=totals > 0),
    )


def _discounts(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Estimate the discounts of counts 1, 2 and above from the number of n-grams with counts 1 to 4."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in range(1, 5))
    if not n1 * n2 * n3 * n4:
        return _DEFAULT_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    estimate = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    # A discount of 0 could leave nothing for unseen tokens; one above the count would give a negative probability.
    return estimate if all(0 < d <= c for c, d in enumerate(estimate, start=1)) else _DEFAULT_DISCOUNTS


def _find(keys: Tokens, wanted: Tokens) -> Tokens:
    """Return the index of each wanted n-gram key in the sorted keys, -1 if missing."""
    indices = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[indices] == wanted, indices, -1)
