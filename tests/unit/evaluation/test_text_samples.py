"""Judgements of samples by hand, and the longest copy against trying all."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.apps.text.copies import Copy, HashedText, longest_copy
from jitflow.apps.text.sample_scores import (
    describe_samples,
    distance_summary,
    distinct_n,
    real_word_share,
    unigram_entropy,
    valid_code_share,
    words,
)
from jitflow.errors import ConfigError, DataError


def test_valid_codes_reach_up_to_the_first_end():
    # Vocabulary of 6: 4 ends, 5 pads; 6 and 9 are no tokens.
    ids = torch.tensor([[1, 6, 5, 4, 9, 5], [0, 1, 2, 3, 5, 0], [4, 9, 9, 9, 9, 4]])
    # Rows: of 1 6 5 4 two are valid, of the six of the second five, of the single end of the third one.
    assert valid_code_share(ids, 6, end_id=4, pad_id=5) == pytest.approx(8 / 11)
    assert valid_code_share(ids, 6, end_id=4) == pytest.approx(10 / 11)
    assert valid_code_share(ids, 6) == pytest.approx(12 / 18)
    assert valid_code_share(torch.tensor([[-1, 0]]), 6) == 0.5
    with pytest.raises(DataError, match="no samples"):
        valid_code_share(ids[:0], 6)


def test_distance_summary():
    distances = torch.arange(101.0).flip(0).view(1, 101)
    assert distance_summary(distances) == (50, 50, 95, 100)
    mask = distances <= 20
    assert distance_summary(distances, mask) == pytest.approx((10, 10, 19, 20))
    with pytest.raises(ConfigError, match="mask"):
        distance_summary(distances, mask[0])
    with pytest.raises(DataError, match="no place"):
        distance_summary(distances, torch.zeros_like(mask))


def test_distinct_runs():
    assert distinct_n(["abab", "ba"], 1) == pytest.approx(2 / 6)
    assert distinct_n(["abab", "ba"], 2) == pytest.approx(2 / 4)
    assert distinct_n([["the", "cat"], ["the", "dog"], ["x"]], 2) == 1
    assert distinct_n([[1, 2]], 3) == 0
    with pytest.raises(ConfigError, match="n must be"):
        distinct_n(["a"], 0)


def test_unigram_entropy_is_a_mean_over_sequences():
    assert unigram_entropy(["abcd", "", "aaaa"]) == pytest.approx(math.log(4) / 2)
    assert unigram_entropy([[7, 7, 8]]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    with pytest.raises(DataError, match="entropy"):
        unigram_entropy([""])


def test_words():
    assert words("Don't 3d-print_Über x1!") == ["don", "t", "d", "print", "über", "x"]
    assert real_word_share(["The cat zzz", "THE."], {"the", "cat"}) == 0.75
    assert real_word_share(["12 !"], {"the"}) == 0


def try_all(sample, texts):
    """Every part of the sample, the longest and then the first one first."""
    for length in range(len(sample), 0, -1):
        for start in range(len(sample) - length + 1):
            part = sample[start : start + length]
            if any(part in text for text in texts):
                return Copy(length, part)
    return Copy(0, "")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab", max_size=25), max_size=4), st.lists(st.text("abc", max_size=40), max_size=4))
def test_longest_copy_equals_trying_all(samples, texts):
    assert longest_copy(samples, texts) == [try_all(sample, texts) for sample in samples]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=3), st.lists(st.text(max_size=20), max_size=3))
def test_longest_copy_of_any_unicode(samples, texts):
    assert longest_copy(samples, texts) == [try_all(sample, texts) for sample in samples]


def test_longest_copy_finds_what_was_planted():
    generator = random.Random(0)
    texts = ["".join(generator.choices("abcdefghij ", k=4000)) for _ in range(5)]
    planted = [texts[i][100 * i + 7 : 100 * i + 7 + 20 + 31 * i] for i in range(5)]
    samples = ["#" * 40 + part + "#" * 3 for part in planted]
    assert longest_copy([*samples, "#", ""], texts) == [*(Copy(len(p), p) for p in planted), Copy(0, ""), Copy(0, "")]


def test_longest_copy_of_half_a_surrogate_pair():
    # Lenient decoding of damaged files leaves such code points.
    assert longest_copy(["?\ud800b"], ["a\ud800b", "?b"]) == [Copy(2, "\ud800b")]


def test_a_copy_does_not_cross_from_one_text_to_the_next():
    assert longest_copy(["abcdef"], ["xabc", "defx"]) == [Copy(3, "abc")]


def test_equal_hashes_of_unequal_texts_are_no_copy(monkeypatch):
    texts, samples = ["abcdefgh" * 3], ["defgabba", "zz", "hgfe"]
    expected = [try_all(sample, texts) for sample in samples]
    monkeypatch.setattr(HashedText, "hashes", lambda self, places, length: self.codes[places].astype(np.uint64) % 2)
    assert longest_copy(samples, texts) == expected


def test_describe_samples():
    found = describe_samples(["the cat sat", "the dog zzz!"], ["the cat sat on", "a dog"])
    assert found == pytest.approx(
        {
            "distinct_1": 5 / 6,
            "distinct_2": 1,
            "distinct_3": 1,
            "unigram_entropy": math.log(3),
            "real_words": 5 / 6,
            "longest_copy_mean": (11 + 4) / 2,
            "longest_copy_max": 11,
        }
    )
    assert describe_samples(["12"], ["a"])["unigram_entropy"] == 0
    with pytest.raises(DataError, match="no samples"):
        describe_samples([], ["a"])
