"""How well a model of text as colour reads noisy text, and what it writes, beside what is possible without a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitflow.apps.text.baselines import (
    context_free_scores,
    time_nearest_half,
    unigram_accuracy,
    unigram_probabilities,
)
from jitflow.apps.text.held_out import Texts, read_texts, spread_windows
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.ngram import NgramModel, byte_sequences, halves, perplexity_table, shuffle_tokens
from jitflow.apps.text.plots import plot_accuracy
from jitflow.apps.text.recovery import text_recovery_accuracy, token_accuracy
from jitflow.apps.text.sample_scores import describe_samples, distance_summary, valid_code_share
from jitflow.apps.text.sampling import TextSamples
from jitflow.apps.text.token_store import TokenStream
from jitflow.core.condition import Condition
from jitflow.core.path import data_from_velocity, interpolate
from jitflow.core.seeding import noise_from_seeds
from jitflow.errors import ConfigError, DataError
from jitflow.io.files import writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.model import Model, load

log = logging.getLogger(__name__)

REPORT_NAME, PLOT_NAME, SAMPLES_NAME = "evaluation.json", "accuracy.png", "samples"
TIMES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
RECOVERY_TIME = 0.3
# Of the bytes of a text; longer runs are hardly ever met twice in a held-out text of some hundred kilobytes.
NGRAM_ORDER = 5
# Text that is kept in memory to be compared with, in tokens: the search for copies needs 60 bytes a character.
_MOST_TOKENS = 20_000_000
_MOST_HELD_OUT_TOKENS = 2_000_000


class Reading(NamedTuple):
    """What a model reads in noisy images by one evaluation of its network.

    Attributes:
        ids: The likeliest token at each place, or the nearest code to the predicted image where the model's output is
            the image itself; shape ``(B, num_tokens)``.
        nats: Cross-entropy of the true token at each place, shape ``(B, num_tokens)``.
    """

    ids: Tensor
    nats: Tensor


def evaluate(
    checkpoint: str | Path,
    data_path: str | Path | None = None,
    out: str | Path = "outputs/text_evaluation",
    num_texts: int = 64,
    num_samples: int = 64,
    seed: int = 0,
    ema: int | None = None,
    *,
    val_path: str | Path | None = None,
    times: Sequence[float] = TIMES,
    recovery_time: float = RECOVERY_TIME,
    steps: int | None = None,
    solver: str | None = None,
    churn: float | None = None,
    temperature: float | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> dict[str, Any]:
    """Measure a model on held-out text and on what it writes.

    - Token accuracy and cross-entropy at fixed times: what the network reads in a noisy text. A network that takes
      hints is told its own reading first, as in sampling (two evaluations); what it says without is beside it
      (``..._one_pass``), and so are the best that can be done without context on the same noise and the most
      frequent token.
    - Text recovery: held-out text is covered with noise up to ``recovery_time`` and sampled from there to the end.
    - Samples: share of valid codes, distance to the codes, perplexity of their bytes under an n-gram model of one half
      of the held-out text (with the other half and its shuffled bytes beside it), repetition, real words, copies.

    Args:
        checkpoint: A model of text as colour.
        data_path: The text that it was trained on, of which the same part is held out as in the training. None takes
            what the checkpoint records; for a file that records nothing the built-in corpus, with a warning.
        out: Folder of ``evaluation.json``, ``accuracy.png`` and the samples.
        num_texts: Held-out windows to read, spread over the held-out text; fewer if there are not so many.
        num_samples: Texts to write; 0 leaves the part on samples out.
        seed: Seed of the first noise; the others follow.
        ema: Average of the weights, 1 or 2; 0 for the weights themselves; by default 1 where there is one.
        val_path: Held-out text, in place of a part of ``data_path``.
        times: Times of the noisy texts, in ``(0, 1)``.
        recovery_time: Time from which texts are recovered, in ``[0, 1)``.
        steps: Steps of the solver; the model's own by default, as for all that follow.
        solver: ``euler``, ``heun``, ``midpoint`` or ``multistep``.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        temperature: Divides the log-probabilities of codewords while sampling.
        batch_size: Images at a time.
        device: Where to compute; the fastest there is by default.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        ConfigError: If a number is out of range.
        MissingFileError: If a path does not exist, such as that of the recorded text.
        CheckpointError: If the checkpoint is damaged or no model of text.
        DataError: If there is no text or nothing of it is held out.
    """
    if num_texts < 1 or num_samples < 0 or batch_size < 1:
        raise ConfigError(
            f"num_texts and batch_size must be at least 1 and num_samples at least 0; "
            f"got {num_texts}, {batch_size} and {num_samples}"
        )
    if not times or not all(0 < t < 1 for t in times):
        raise ConfigError(f"times must be numbers between 0 and 1; got {list(times)}")
    if not 0 <= recovery_time < 1:
        raise ConfigError(f"recovery_time must lie in [0, 1); got {recovery_time}")
    model = load(checkpoint, device=device, application=TextLightningModule.application)
    module = model.module
    assert isinstance(module, TextLightningModule)
    ema = (1 if module.ema_params1 else 0) if ema is None else ema
    if ema:
        module.ema_parameters(ema)
    folder = writable_folder(out)
    texts = read_texts(module, checkpoint, data_path, val_path)
    sampling: dict[str, Any] = {
        "steps": steps,
        "solver": solver,
        "churn": churn,
        "temperature": temperature,
        "ema": ema,
        "batch_size": batch_size,
    }
    report: dict[str, Any] = {"checkpoint": str(checkpoint), "seed": seed, "ema": ema}
    ids = spread_windows(texts.held_out, num_texts)
    report["held_out"] = _read_noisy(module, ids, texts, times, seed, ema, batch_size)
    report["recovery"] = _recover(model, module, ids, recovery_time, seed, sampling)
    if num_samples:
        with meter("writing", num_samples, unit="texts") as progress:
            samples = model.sample(
                num=num_samples,
                seeds=seed,
                on_progress=lambda done, in_all: progress.update(num_samples * done / in_all),
                **sampling,
            )
        assert isinstance(samples, TextSamples)
        samples.save(folder / SAMPLES_NAME)
        report["samples"] = judge_samples(module, samples, texts.train.stream, texts.held_out.stream, seed=seed)
    held_out = report["held_out"]
    curves = {"the model": held_out["token_accuracy"]}
    if held_out["token_accuracy_one_pass"]:
        curves["the model, not told its own reading"] = held_out["token_accuracy_one_pass"]
    plot_accuracy(
        folder / PLOT_NAME,
        {name: _numbers(curve) for name, curve in curves.items()},
        baselines={
            "without context (Bayes)": _numbers(held_out["context_free_baseline"]),
            "most frequent token": _numbers(held_out["unigram_baseline"]),
        },
    )
    write_json(folder / REPORT_NAME, report)
    return report


@torch.no_grad()
def read_noisy(
    module: TextLightningModule, x_t: Tensor, t: float, ids: Tensor, *, num_passes: int = 1
) -> list[Reading]:
    """Read noisy images with the module's present weights.

    Args:
        module: The model; one that takes hints is told what is known without it at first, and then its own estimate of
            the pass before.
        x_t: Path samples, shape ``(B, 3, H, W)``.
        t: Their time.
        ids: The true tokens, shape ``(B, num_tokens)``.
        num_passes: Evaluations of the network.

    Returns:
        A reading for each pass; without hints further passes would say the same, so there is one only.
    """
    time = torch.full((len(x_t),), t, device=x_t.device)
    labels = torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
    hint = module._training_hint(x_t, time, labels, Condition(), estimate=False) if module.takes_hints else None
    readings = []
    for _ in range(num_passes if module.takes_hints else 1):
        output = module(x_t, time, labels, hint).float()
        v = module.velocity_of(output, x_t, time)
        x1_pred = data_from_velocity(v, x_t, time, t_eps=module.t_eps)
        nats = module.token_cross_entropy(output, x_t, time, ids)
        chosen = module.posterior is not None
        ids_read = module.token_logits(output, x_t, time).argmax(dim=-1) if chosen else module.colours.tokens(x1_pred)
        readings.append(Reading(ids_read, nats))
        hint = x1_pred
    return readings


def judge_samples(
    module: TextLightningModule,
    samples: TextSamples,
    train: TokenStream,
    held_out: TokenStream,
    *,
    seed: int = 0,
    order: int = NGRAM_ORDER,
) -> dict[str, Any]:
    """Measure what a model wrote, with held-out text and its shuffled bytes beside it.

    Args:
        module: The model, for its tokenizer and colours.
        samples: Texts that it wrote.
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
    words, vocab_size = module.tokenizer, module.colours.vocab_size
    training_texts = stream_texts(module, train, _MOST_TOKENS)
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
    collections: dict[str, Any] = {"held_out": real, "shuffled": shuffle_tokens(real, seed=seed)}
    perplexity: dict[str, float | None] = {"samples": None, **perplexity_table(model, collections)}
    if any(samples.texts):
        perplexity["samples"] = model.perplexity(byte_sequences(samples.texts))
    pieces.sort(key=len, reverse=True)
    step = max(1, len(pieces) // max(1, len(samples)))
    return {
        "num_samples": len(samples),
        "settings": samples.settings,
        "valid_codes": valid_code_share(samples.ids, vocab_size, end_id=words.end_id, pad_id=words.pad_id),
        "code_distance": distance_summary(module.colours.distance(samples.states))._asdict(),
        "ngram_order": model.order,
        "ngram_perplexity": perplexity,
        "samples": describe_samples(samples.texts, training_texts),
        "held_out": describe_samples(pieces[::step][: len(samples)], training_texts),
    }


def stream_texts(module: TextLightningModule, stream: TokenStream, most_tokens: int) -> list[str]:
    """Decode the documents of a stream.

    Args:
        module: The model, for its tokenizer.
        stream: The tokens.
        most_tokens: Where to stop; a document that reaches over it is cut.

    Returns:
        The texts of the documents.

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


def _read_noisy(
    module: TextLightningModule,
    ids: Tensor,
    texts: Texts,
    times: Sequence[float],
    seed: int,
    ema: int,
    batch_size: int,
) -> dict[str, Any]:
    """Accuracy and cross-entropy at each time, with the baselines on the same noise."""
    words, codec = module.tokenizer, module.colours
    mask = ids != words.pad_id
    seeds = list(range(seed, seed + len(ids)))
    prior = unigram_probabilities(
        torch.from_numpy(texts.train.stream.ids[:_MOST_TOKENS].astype("int64")), codec.vocab_size
    )
    # How many bytes a token stands for, to compare tokenizers.
    num_bytes = sum(len(words.decode(row[keep].tolist()).encode()) for row, keep in zip(ids, mask, strict=True))
    per_byte = int(mask.sum()) / max(1, num_bytes) / math.log(2)
    columns: dict[str, dict[str, float]] = {
        name: {}
        for name in (
            "token_accuracy",
            "token_accuracy_one_pass",
            "context_free_baseline",
            "unigram_baseline",
            "nats_per_token",
            "nats_per_token_one_pass",
            "bits_per_byte",
            "bits_per_byte_one_pass",
            "context_free_nats_per_token",
            "context_free_bits_per_byte",
        )
    }
    unigram = unigram_accuracy(ids, prior, mask)
    module.eval()
    weights = module.ema_weights(ema) if ema else nullcontext()
    with weights, meter("reading noisy text", len(times) * len(ids), unit="texts") as progress:
        for place, t in enumerate(times):
            key = f"{t:g}"

            def on_batch(done: int, place: int = place) -> None:
                progress.update(place * len(ids) + done)

            passes = _read_in_batches(module, ids, t, seeds, batch_size, on_batch)
            # As in sampling, where a network that takes hints is told its own estimate at each step.
            endings = ("_one_pass", "") if len(passes) > 1 else ("",)
            for reading, ending in zip(passes, endings, strict=True):
                nats = float(reading.nats[mask].double().mean())
                columns[f"token_accuracy{ending}"][key] = token_accuracy(reading.ids, ids, mask)
                columns[f"nats_per_token{ending}"][key] = nats
                columns[f"bits_per_byte{ending}"][key] = nats * per_byte
            scores = context_free_scores(codec, ids, t, prior, noise_scale=module.noise_scale, seeds=seeds, mask=mask)
            columns["context_free_baseline"][key] = scores.accuracy
            columns["context_free_nats_per_token"][key] = scores.cross_entropy
            columns["context_free_bits_per_byte"][key] = scores.cross_entropy * per_byte
            columns["unigram_baseline"][key] = unigram
    nearest = time_nearest_half(_numbers(columns["context_free_baseline"]))
    gain = columns["token_accuracy"][f"{nearest:g}"] - columns["context_free_baseline"][f"{nearest:g}"]
    return {
        "num_texts": len(ids),
        "num_tokens": int(mask.sum()),
        **columns,
        "time_nearest_half": nearest,
        "gain_at_time_nearest_half": gain,
    }


def _read_in_batches(
    module: TextLightningModule,
    ids: Tensor,
    t: float,
    seeds: list[int],
    batch_size: int,
    on_batch: Callable[[int], None],
) -> list[Reading]:
    read: list[list[Reading]] = []
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        true = ids[part].to(module.device)
        x1 = module.colours.encode(true)
        noise = module.noise_scale * noise_from_seeds(module.codec.shape, seeds[part], device=module.device)
        x_t = interpolate(noise, x1, torch.full((len(x1),), t, device=module.device))
        read.append(read_noisy(module, x_t, t, true, num_passes=2))
        on_batch(start + len(true))
    return [
        Reading(*(torch.cat([part.cpu() for part in field]) for field in zip(*batches, strict=True)))
        for batches in zip(*read, strict=True)
    ]


def _recover(
    model: Model, module: TextLightningModule, ids: Tensor, t: float, seed: int, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """Sample on from noisy text and compare what it says then."""
    with meter("recovering", len(ids), unit="texts") as progress:
        back = model.sample(
            texts=ids,
            start_time=t,
            seeds=seed,
            on_progress=lambda done, in_all: progress.update(len(ids) * done / in_all),
            **sampling,
        )
    assert isinstance(back, TextSamples)
    decode = module.tokenizer.decode
    # Whole windows: a document may end, and another begin, in the middle of one.
    scores = text_recovery_accuracy([decode(row) for row in ids.tolist()], [decode(row) for row in back.ids.tolist()])
    mask = ids != module.tokenizer.pad_id
    return {
        "t": t,
        "text_recovery_accuracy": scores.accuracy,
        "exact": scores.exact,
        "token_accuracy": token_accuracy(back.ids, ids, mask),
        "num_texts": scores.num_texts,
        "settings": back.settings,
    }


def _numbers(curve: Mapping[str, float]) -> dict[float, float]:
    return {float(t): value for t, value in curve.items()}
