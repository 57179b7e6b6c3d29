"""Scores of generated texts: valid codes, n-gram perplexity, variety and copies, beside real and shuffled text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from jitflow.apps.text.copies import longest_copy
from jitflow.apps.text.held_out import MOST_TOKENS
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.ngram import NgramModel, byte_sequences, halves, perplexity_table, shuffle_tokens
from jitflow.apps.text.sample_scores import (
    describe_samples,
    distance_summary,
    distinct_n,
    unigram_entropy,
    valid_code_share,
    valid_codes,
    words,
)
from jitflow.apps.text.sampling import TextSamples
from jitflow.apps.text.token_store import TokenStream
from jitflow.errors import DataError
from jitflow.evaluation.memorisation import copies_by_held_out
from jitflow.evaluation.score_sheet import ScoreSheet

# Of the bytes of a text; longer runs are hardly ever met twice in a held-out text of some hundred kilobytes.
NGRAM_ORDER = 5
_MOST_HELD_OUT_TOKENS = 2_000_000


def judge_samples(
    module: TextLightningModule,
    samples: TextSamples,
    train: TokenStream,
    held_out: TokenStream,
    sheet: ScoreSheet | None = None,
    *,
    seed: int = 0,
    order: int = NGRAM_ORDER,
) -> dict[str, Any]:
    """Measure generated texts, with held-out text and its shuffled bytes beside them.

    Args:
        module: The model, for its tokenizer and colours.
        samples: Texts that it generated.
        train: Tokens that it was trained on; 20 millions at most are compared with.
        held_out: Tokens that it was not trained on. One half fits the n-gram model; of the other as many windows as
            there are samples are judged as the samples are.
        sheet: Takes the scores with their intervals.
        seed: Seed of the shuffling.
        order: Length of the n-grams, in bytes.

    Returns:
        Plain values: ``valid_codes`` (share), ``code_distance``, ``ngram_perplexity`` (``samples``, ``held_out``,
        ``shuffled``; None for no text at all), for ``samples`` and ``held_out`` the numbers of
        :func:`~jitflow.apps.text.sample_scores.describe_samples`, ``copies`` (share of the samples), ``copy_length``,
        which a copy is longer than, and ``longest_copies``, the ten longest.
    """
    tokenizer, vocab_size = module.tokenizer, module.colours.vocab_size
    training_texts = stream_texts(module, train, MOST_TOKENS)
    documents = stream_texts(module, held_out, _MOST_HELD_OUT_TOKENS)
    if len(documents) < 2:
        middle = len(documents[0]) // 2
        documents = [documents[0][:middle], documents[0][middle:]]
    fitted, other = halves(documents)
    # Pieces as long as a sample, since the first bytes of a text are the least predictable.
    longest = max(map(len, samples.texts), default=0) or max(map(len, other))
    pieces = [text[i : i + longest] for text in other for i in range(0, len(text), longest)]
    real = byte_sequences(pieces)
    model = NgramModel.fit(byte_sequences(fitted), order, 256)
    references: dict[str, Any] = {"held_out": real, "shuffled": shuffle_tokens(real, seed=seed)}
    perplexity: dict[str, float | None] = {"samples": None, **perplexity_table(model, references)}
    if any(samples.texts):
        perplexity["samples"] = model.perplexity(byte_sequences(samples.texts))
    pieces.sort(key=len, reverse=True)
    compared = pieces[:: max(1, len(pieces) // max(1, len(samples)))][: len(samples)]
    found = longest_copy([*samples.texts, *compared], training_texts)
    own, others = found[: len(samples)], found[len(samples) :]
    # The longer the copy, the nearer.
    copies = copies_by_held_out(*(-torch.tensor([copy.length for copy in part]).double() for part in (own, others)))
    ids_of = {"end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    if sheet is not None:
        sheet.add_ratio("codes/valid_codes", *valid_codes(samples.ids, vocab_size, **ids_of), most=1)
        _add_perplexity(sheet, model, samples.texts)
        _add_words(sheet, samples.texts, training_texts)
        sheet.add_share("training-text/copies", copies.is_copy)
        sheet.add_ratio("training-text/longest_copy_mean", -copies.nearness)
    return {
        "num_samples": len(samples),
        "settings": samples.settings,
        "valid_codes": valid_code_share(samples.ids, vocab_size, **ids_of),
        "code_distance": distance_summary(module.colours.distance(samples.states))._asdict(),
        "ngram_order": model.order,
        "ngram_perplexity": perplexity,
        "samples": describe_samples(samples.texts, training_texts, own),
        "held_out": describe_samples(compared, training_texts, others),
        "copies": copies.share,
        "copy_length": -copies.threshold,
        "longest_copies": [{"sample": i, **own[i]._asdict()} for i in copies.nearest()],
    }


def _add_perplexity(sheet: ScoreSheet, model: NgramModel, texts: Sequence[str]) -> None:
    """Add the perplexity of the samples' bytes; nothing if a group of samples has no text."""
    log_probs = model.log_prob(byte_sequences(texts))
    if not all(map(len, log_probs)):
        return
    totals = torch.tensor([[-part.sum(), len(part)] for part in log_probs], dtype=torch.float64)

    def perplexity(kept: Sequence[int]) -> float:
        nats, num_bytes = totals[kept].sum(dim=0).tolist()
        return math.exp(nats / num_bytes)

    sheet.add_by_groups("ngram/perplexity", len(texts), perplexity)


def _add_words(sheet: ScoreSheet, texts: Sequence[str], training_texts: Sequence[str]) -> None:
    """Add the share of real words; distinct n-grams depend on the amount of text, so they have no interval."""
    known = {word for text in training_texts for word in words(text)}
    split = [words(text) for text in texts]
    if all(split):
        real = [sum(word in known for word in part) for part in split]
        sheet.add_ratio("words/real_words", torch.tensor(real), torch.tensor([len(part) for part in split]), most=1)
        sheet.add_ratio("words/unigram_entropy", torch.tensor([unigram_entropy([part]) for part in split]))
    sheet.metrics["words/distinct_2"] = distinct_n(split, 2)


def stream_texts(module: TextLightningModule, stream: TokenStream, most_tokens: int) -> list[str]:
    """Decode the documents of a token stream.

    Args:
        module: The model, for its tokenizer.
        stream: The tokens.
        most_tokens: Where to stop; a document that crosses it is truncated.

    Returns:
        The text of each document.

    Raises:
        DataError: If there is none.
    """
    texts, start = [], 0
    for end in stream.ends.tolist():
        if start >= most_tokens:
            break
        texts.append(module.tokenizer.decode(stream.ids[start : min(end, most_tokens)].tolist()))
        start = end
    if not texts:
        raise DataError("there is no text to compare with; give a data_path with text")
    return texts
