"""Scores of generated texts: valid codes, n-gram perplexity, variety and copies, beside real and shuffled text."""

from __future__ import annotations

from typing import Any

from jitflow.apps.text.held_out import MOST_TOKENS
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.ngram import NgramModel, byte_sequences, halves, perplexity_table, shuffle_tokens
from jitflow.apps.text.sample_scores import describe_samples, distance_summary, valid_code_share
from jitflow.apps.text.sampling import TextSamples
from jitflow.apps.text.token_store import TokenStream
from jitflow.errors import DataError

# Of the bytes of a text; longer runs are hardly ever met twice in a held-out text of some hundred kilobytes.
NGRAM_ORDER = 5
_MOST_HELD_OUT_TOKENS = 2_000_000


def judge_samples(
    module: TextLightningModule,
    samples: TextSamples,
    train: TokenStream,
    held_out: TokenStream,
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
        seed: Seed of the shuffling.
        order: Length of the n-grams, in bytes.

    Returns:
        Plain values: ``valid_codes`` (share), ``code_distance``, ``ngram_perplexity`` (``samples``, ``held_out``,
        ``shuffled``; None for no text at all), and for ``samples`` and ``held_out`` the numbers of
        :func:`~jitflow.apps.text.sample_scores.describe_samples`.
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
    step = max(1, len(pieces) // max(1, len(samples)))
    return {
        "num_samples": len(samples),
        "settings": samples.settings,
        "valid_codes": valid_code_share(samples.ids, vocab_size, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id),
        "code_distance": distance_summary(module.colours.distance(samples.states))._asdict(),
        "ngram_order": model.order,
        "ngram_perplexity": perplexity,
        "samples": describe_samples(samples.texts, training_texts),
        "held_out": describe_samples(pieces[::step][: len(samples)], training_texts),
    }


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
