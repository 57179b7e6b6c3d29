"""Byte-pair encoding trained on a corpus: frequent strings become one token.

References:
    Sennrich, Haddow & Birch 2016, arXiv:1508.07909; over bytes: Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners", section 2.2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from jitflow.apps.text.tokenizer.subword import SubwordTokenizer, tokenizers_library
from jitflow.errors import ConfigError, DataError, check_count
from jitflow.io.plain_values import well_formed

_log = logging.getLogger(__name__)
_NUM_SPECIAL = 2
_NUM_BYTES = 256
# The library makes room for all of them at once.
_MOST_TOKENS = 1_000_000


def train_bpe(texts: Iterable[str], vocab_size: int = 4096, *, max_characters: int = 200_000_000) -> SubwordTokenizer:
    """Train a byte-level BPE tokenizer, which can encode every text and decode it exactly.

    The same texts in the same order give the same tokenizer.

    Args:
        texts: Documents, or parts of documents.
        vocab_size: Number of ids including end and padding, at least 258. The vocabulary is smaller if a small corpus
            has too few repeated strings.
        max_characters: Training reads no more than this; the library keeps every distinct word in memory.

    Returns:
        The tokenizer; its last two ids are end and padding.

    Raises:
        ConfigError: If the vocabulary is too small or the ``tokenizers`` library is missing.
        DataError: If there is no text.
    """
    least = _NUM_BYTES + _NUM_SPECIAL
    if vocab_size < least:
        raise ConfigError(f"a byte-pair vocabulary has at least {least} tokens (bytes, end, padding); got {vocab_size}")
    check_count("the size of the vocabulary", vocab_size, most=_MOST_TOKENS)
    library = tokenizers_library()
    engine = library.Tokenizer(library.models.BPE())
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size - _NUM_SPECIAL,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        min_frequency=2,
        show_progress=False,
    )
    reader = _CountingReader(texts, max_characters)
    engine.train_from_iterator(iter(reader), trainer)
    if not reader.num_characters:
        raise DataError("there is no text to learn a tokenizer from")
    if reader.stopped:
        _log.info("the tokenizer was learned from the first %d characters (max_characters)", reader.num_characters)
    tokenizer = SubwordTokenizer(engine.to_str(), name=f"bpe:{vocab_size}")
    if tokenizer.vocab_size < vocab_size:
        _log.info("the corpus gave %d tokens instead of %d: too few repeats", tokenizer.vocab_size, vocab_size)
    return tokenizer


class _CountingReader:
    """Iterator over the beginning of texts that counts characters."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self._texts, self._limit = texts, limit
        self.num_characters = 0
        self.stopped = False

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            if self.num_characters >= self._limit:
                self.stopped = True
                return
            self.num_characters += len(text)
            yield well_formed(text)
