"""Kneser-Ney by hand, against the formulas term by term, and as a distribution."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.apps.text.ngram import NgramModel, byte_sequences, halves, perplexity_table, shuffle_tokens
from jitflow.errors import ConfigError, DataError


def probabilities(model, sequence):
    return np.exp(model.log_prob([sequence])[0])


def zipf_sequences(num, length, vocab_size, seed):
    """Text with frequent and rare tokens, each likely to be followed by its double."""
    generator = np.random.default_rng(seed)
    weights = 1 / (np.arange(vocab_size) + 1)
    sequences = []
    for _ in range(num):
        tokens = [0]
        while len(tokens) < length:
            drawn = int(generator.choice(vocab_size, p=weights / weights.sum()))
            tokens.append(tokens[-1] * 2 % vocab_size if generator.random() < 0.4 else drawn)
        sequences.append(tokens)
    return sequences


class Definition:
    """The formulas of Chen and Goodman with dictionaries, one probability at a time."""

    def __init__(self, sequences, order, vocab_size):
        self.order, self.vocab_size = order, vocab_size
        left = defaultdict(set)
        raw = Counter()
        for sequence in sequences:
            for end in range(1, len(sequence) + 1):
                for k in range(1, min(order, end) + 1):
                    run = tuple(sequence[end - k : end])
                    raw[run] += 1
                    left[run].add(sequence[end - k - 1] if end > k else "start")
        self.count = {run: raw[run] if len(run) == order else len(left[run]) for run in raw}
        self.discount = {k: self.discounts(k) for k in range(1, order + 1)}

    def discounts(self, k):
        n = Counter(count for run, count in self.count.items() if len(run) == k)
        if min(n[1], n[2], n[3], n[4]) == 0:
            return {1: 0.5, 2: 1.0, 3: 1.5}
        y = n[1] / (n[1] + 2 * n[2])
        d = {1: 1 - 2 * y * n[2] / n[1], 2: 2 - 3 * y * n[3] / n[2], 3: 3 - 4 * y * n[4] / n[3]}
        return d if all(0 < d[i] <= i for i in d) else {1: 0.5, 2: 1.0, 3: 1.5}

    def probability(self, context, token):
        if context is None:
            return 1 / self.vocab_size
        shorter = self.probability(context[1:] if context else None, token)
        followers = {w: self.count[(*context, w)] for w in range(self.vocab_size) if (*context, w) in self.count}
        if not followers:
            return shorter
        d = self.discount[len(context) + 1]
        total = sum(followers.values())
        kept = followers[token] - d[min(3, followers[token])] if token in followers else 0
        return kept / total + sum(d[min(3, c)] for c in followers.values()) / total * shorter


def test_three_tokens_by_hand():
    # Bigrams ab, ba once each: discount 1/2. Left neighbours: of a the start and b, of b only a.
    # p(a) = (2 - 1)/3 + (1 + 1/2)/3 / 2 = 7/12, p(b) = 5/12; p(b|a) = 1/2 + p(b)/2, p(a|b) = 1/2 + p(a)/2.
    model = NgramModel.fit([[0, 1, 0]], order=2, vocab_size=2)
    assert probabilities(model, [0, 1, 0]) == pytest.approx([7 / 12, 17 / 24, 19 / 24])
    assert probabilities(model, [1, 1]) == pytest.approx([5 / 12, 5 / 24])


def test_one_level_counts_tokens_and_not_neighbours():
    # Three a, one b; defaults: p(a) = (3 - 1.5)/4 + (1.5 + 0.5)/4 / 2.
    model = NgramModel.fit([[0, 0, 0, 1]], order=1, vocab_size=2)
    assert probabilities(model, [0, 1]) == pytest.approx([0.625, 0.375])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equals_the_definition(order):
    vocab_size = 400
    sequences = [*zipf_sequences(12, 80, vocab_size, 0), [7], [], [5, 3]]
    model, definition = NgramModel.fit(sequences, order, vocab_size), Definition(sequences, order, vocab_size)
    # The estimated discounts must be among what is compared.
    assert any(d[1] != 0.5 for d in definition.discount.values())
    tested = [*zipf_sequences(2, 40, vocab_size, 1), [39, 38, 37, 39], [], *sequences[:1]]
    for sequence, found in zip(tested, model.log_prob(tested), strict=True):
        expected = [
            definition.probability(tuple(sequence[max(0, i - order + 1) : i]), token)
            for i, token in enumerate(sequence)
        ]
        assert np.exp(found) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=30), min_size=1, max_size=5).filter(any),
    st.lists(st.integers(0, 5), max_size=5),
    st.integers(1, 5),
)
def test_sums_to_one_after_any_context_and_excludes_nothing(sequences, context, order):
    # Token 5 is never seen.
    model = NgramModel.fit(sequences, order, vocab_size=6)
    last = np.exp([part[-1] for part in model.log_prob([[*context, token] for token in range(6)])])
    assert last.sum() == pytest.approx(1, abs=1e-12)
    assert last.min() > 0


def test_a_model_without_knowledge_has_the_perplexity_of_the_vocabulary():
    model = NgramModel.fit([list(range(8))], order=1, vocab_size=8)
    assert model.perplexity([[3, 1, 4], [1]]) == pytest.approx(8)


def test_perplexity_weighs_tokens_alike():
    model = NgramModel.fit([[0, 0, 0, 1]], order=1, vocab_size=2)
    assert model.perplexity([[0, 0], [], [1]]) == pytest.approx(math.exp(-math.log(0.625 * 0.625 * 0.375) / 3))


def test_order_longer_than_the_text():
    short, exact = (NgramModel.fit([[0, 1], [1, 0]], order, vocab_size=3) for order in (9, 2))
    assert short.order == exact.order == 2
    assert short.perplexity([[0, 1, 2, 0]]) == exact.perplexity([[0, 1, 2, 0]])


def test_real_text_lies_between_the_text_fitted_on_and_the_shuffled_one():
    fitted, held_out = halves(zipf_sequences(40, 200, 50, 0))
    model = NgramModel.fit(fitted, 3, 50)
    shuffled = shuffle_tokens(held_out, seed=0)
    table = perplexity_table(model, {"fitted": fitted, "held_out": held_out, "shuffled": shuffled})
    assert list(table) == ["fitted", "held_out", "shuffled"]
    assert table["fitted"] < 0.8 * table["held_out"] < 0.64 * table["shuffled"]


def test_shuffling_keeps_the_tokens_of_each_sequence_and_repeats():
    sequences = [list(range(50)), [3, 3, 7]]
    first, again, other = (shuffle_tokens(sequences, seed=seed) for seed in (1, 1, 2))
    assert [sorted(s) for s in first] == sequences
    assert list(first[0]) != sequences[0]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_halves_and_bytes():
    assert halves(["a", "b", "c"]) == (["a", "c"], ["b"])
    assert [s.tolist() for s in byte_sequences(["aé", ""])] == [[97, 0xC3, 0xA9], []]


def test_bad_input():
    with pytest.raises(ConfigError, match=r"\[0, 4\); got 0 to 4"):
        NgramModel.fit([[0, 4]], 2, 4)
    with pytest.raises(ConfigError, match="order"):
        NgramModel.fit([[0]], 0, 4)
    with pytest.raises(DataError, match="no tokens"):
        NgramModel.fit([[], []], 2, 4)
    model = NgramModel.fit([[0, 1]], 2, 4)
    assert model.log_prob([]) == []
    with pytest.raises(ConfigError, match=r"got -1 to 0"):
        model.log_prob([[0, -1]])
    with pytest.raises(DataError, match="samples: the perplexity of no tokens"):
        perplexity_table(model, {"samples": [[]]})
    with pytest.raises(DataError, match="halved"):
        halves(["a"])
