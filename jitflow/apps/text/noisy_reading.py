"""Token accuracy and cross-entropy of a text model on noisy held-out text, beside readers without context."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitflow.apps.text.baselines import (
    context_free_scores,
    time_nearest_half,
    unigram_accuracy,
    unigram_probabilities,
)
from jitflow.apps.text.evaluation_settings import TextEvaluation
from jitflow.apps.text.held_out import MOST_TOKENS
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.recovery import token_accuracy
from jitflow.apps.text.token_store import TokenStream
from jitflow.core.condition import Condition
from jitflow.core.path import data_from_velocity, interpolate
from jitflow.core.seeding import noise_from_seeds
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.io.progress import meter
from jitflow.training.precision import autocast

# Scores of the report, each a value for every time. What ends in "_one_pass" is there for networks that take hints.
_CURVES = (
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


class Reading(NamedTuple):
    """Tokens that a model reads in noisy images by one evaluation of its network.

    Attributes:
        ids: The likeliest token at each place, or the nearest code to the predicted image where the model's output is
            the image itself; shape ``(B, num_tokens)``.
        nats: Cross-entropy of the true token at each place, shape ``(B, num_tokens)``.
    """

    ids: Tensor
    nats: Tensor


@torch.no_grad()
def read_noisy(
    module: TextLightningModule, x_t: Tensor, t: float, ids: Tensor, *, num_passes: int = 1
) -> list[Reading]:
    """Read the tokens of noisy images with the module's present weights.

    Args:
        module: The model. A network that takes hints gets its training hint in the first pass, and its own prediction
            of the pass before in each further one.
        x_t: Path samples, shape ``(B, 3, H, W)``.
        t: Their time.
        ids: The true tokens, shape ``(B, num_tokens)``.
        num_passes: Evaluations of the network.

    Returns:
        A reading for each pass; a single one where the network takes no hints, since further passes would be equal.
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
        has_logits = module.posterior is not None
        ids_pred = (
            module.token_logits(output, x_t, time).argmax(dim=-1) if has_logits else module.colours.tokens(x1_pred)
        )
        readings.append(Reading(ids_pred, nats))
        hint = x1_pred
    return readings


def score_readings(
    module: TextLightningModule, ids: Tensor, train: TokenStream, settings: TextEvaluation, sheet: ScoreSheet
) -> dict[str, Any]:
    """Measure token accuracy and cross-entropy at each time, with the baselines on the same noise.

    Args:
        module: The model.
        ids: Held-out tokens, shape ``(N, num_tokens)``.
        train: Tokens of the training text, whose frequencies are the baselines' prior.
        settings: Times, seed, batch size, precision and average of the weights.
        sheet: Takes the scores at ``time_nearest_half`` with their intervals.

    Returns:
        ``num_texts``, ``num_tokens``, a dictionary by time for each score, ``time_nearest_half`` and
        ``gain_at_time_nearest_half``.
    """
    mask = ids != module.tokenizer.pad_id
    seeds = list(range(settings.seed, settings.seed + len(ids)))
    vocab_size = module.colours.vocab_size
    prior = unigram_probabilities(torch.from_numpy(train.ids[:MOST_TOKENS].astype("int64")), vocab_size)
    unigram = unigram_accuracy(ids, prior, mask)
    bits_per_nat = _tokens_per_byte(module, ids, mask) / math.log(2)
    curves: dict[str, dict[str, float]] = {name: {} for name in _CURVES}
    readings: dict[str, Reading] = {}
    module.eval()
    weights = module.ema_weights(settings.ema) if settings.ema else nullcontext()
    with weights, meter("reading noisy text", len(settings.times) * len(ids), unit="texts") as progress:
        for index, t in enumerate(settings.times):
            key = f"{t:g}"

            def on_batch(done: int, index: int = index) -> None:
                progress.update(index * len(ids) + done)

            with autocast(settings.precision, module.device):
                passes = _read_in_batches(module, ids, t, seeds, settings.batch_size, on_batch)
            # The headline is the last pass: in sampling, too, a network that takes hints has its own prediction.
            suffixes = ("_one_pass", "") if len(passes) > 1 else ("",)
            for reading, suffix in zip(passes, suffixes, strict=True):
                nats = float(reading.nats[mask].double().mean())
                curves[f"token_accuracy{suffix}"][key] = token_accuracy(reading.ids, ids, mask)
                curves[f"nats_per_token{suffix}"][key] = nats
                curves[f"bits_per_byte{suffix}"][key] = nats * bits_per_nat
            readings[key] = passes[-1]
            best = context_free_scores(
                module.colours, ids, t, prior, noise_scale=module.noise_scale, seeds=seeds, mask=mask
            )
            curves["context_free_baseline"][key] = best.accuracy
            curves["context_free_nats_per_token"][key] = best.cross_entropy
            curves["context_free_bits_per_byte"][key] = best.cross_entropy * bits_per_nat
            curves["unigram_baseline"][key] = unigram
    nearest = time_nearest_half(values_by_time(curves["context_free_baseline"]))
    read, num_tokens = readings[f"{nearest:g}"], mask.sum(dim=1)
    sheet.add_ratio("reading/token_accuracy", ((read.ids == ids) & mask).sum(dim=1), num_tokens, most=1)
    sheet.add_ratio("reading/bits_per_byte", (read.nats * mask).sum(dim=1), num_tokens / bits_per_nat)
    gain = curves["token_accuracy"][f"{nearest:g}"] - curves["context_free_baseline"][f"{nearest:g}"]
    return {
        "num_texts": len(ids),
        "num_tokens": int(mask.sum()),
        **curves,
        "time_nearest_half": nearest,
        "gain_at_time_nearest_half": gain,
    }


def values_by_time(curve: Mapping[str, float]) -> dict[float, float]:
    """Turn the times of a score, which are text in JSON, back into numbers."""
    return {float(t): value for t, value in curve.items()}


def _tokens_per_byte(module: TextLightningModule, ids: Tensor, mask: Tensor) -> float:
    """Tokens per byte of text, which makes scores of different tokenizers comparable."""
    rows = zip(ids, mask, strict=True)
    num_bytes = sum(len(module.tokenizer.decode(row[keep].tolist()).encode()) for row, keep in rows)
    return int(mask.sum()) / max(1, num_bytes)


def _read_in_batches(
    module: TextLightningModule,
    ids: Tensor,
    t: float,
    seeds: list[int],
    batch_size: int,
    on_batch: Callable[[int], None],
) -> list[Reading]:
    """Cover tokens with noise up to a time and read them: a reading of all texts for each of two passes."""
    batches: list[list[Reading]] = []
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        true = ids[part].to(module.device)
        x1 = module.colours.encode(true)
        noise = module.noise_scale * noise_from_seeds(module.codec.shape, seeds[part], device=module.device)
        x_t = interpolate(noise, x1, torch.full((len(x1),), t, device=module.device))
        batches.append(read_noisy(module, x_t, t, true, num_passes=2))
        on_batch(start + len(true))
    return [
        Reading(*(torch.cat([part.cpu() for part in field]) for field in zip(*passes, strict=True)))
        for passes in zip(*batches, strict=True)
    ]
