"""Evaluation of a text model: token accuracy on noisy text, recovery from noise, and generated samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.text.evaluation_settings import TextEvaluation
from jitflow.apps.text.held_out import MOST_TOKENS, read_texts, spread_windows
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.noise_recovery import score_recovery
from jitflow.apps.text.noisy_reading import score_readings, values_by_time
from jitflow.apps.text.plots import plot_accuracy
from jitflow.apps.text.sample_judge import judge_samples
from jitflow.apps.text.sampling import TextSamples
from jitflow.checkpoint.find import find_model
from jitflow.evaluation.protocol import sampling_card
from jitflow.evaluation.report import build_report
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.io.files import writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.model import Model, load

REPORT_NAME, PLOT_NAME, SAMPLES_NAME = "evaluation.json", "accuracy.png", "samples"
_DEFAULTS = TextEvaluation()


def evaluate(
    checkpoint: str | Path,
    data_path: str | Path | None = None,
    out: str | Path = "outputs/text_evaluation",
    settings: TextEvaluation = _DEFAULTS,
    *,
    val_path: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Evaluate a text model on held-out text and on the texts that it generates.

    - Token accuracy and cross-entropy of the network on noisy text at fixed times. A self-conditioned network first
      gets its own prediction, as in sampling (two evaluations); scores of a single evaluation (``..._one_pass``), of
      the Bayes-optimal reader without context, and of the most frequent token are reported beside it.
    - Text recovery: held-out text is covered with noise up to ``recovery_time`` and sampled from there to the end.
    - Samples: share of valid codes, distance to the codes, byte perplexity under an n-gram model of one half of the
      held-out text (compared with the other half and its shuffled bytes), repetition, real words, copies.

    Args:
        checkpoint: Checkpoint of a text model, or its run's folder.
        data_path: Training text, of which the same part is held out as in training. None takes the path recorded in
            the checkpoint; if there is none the built-in corpus, with a warning.
        out: Folder of ``evaluation.json``, ``accuracy.png`` and the samples.
        settings: Amounts of text, times, and sampling settings.
        val_path: Held-out text; a part of ``data_path`` by default.
        device: Device; the fastest available by default.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ConfigError: If the model does not have the average of the weights, or a sampling setting is out of range.
        MissingFileError: If a path does not exist, such as that of the recorded text.
        CheckpointError: If the checkpoint is damaged or of another application.
        DataError: If there is no text, or no held-out part of it.
    """
    checkpoint = find_model(checkpoint)
    model = load(checkpoint, device=device, application=TextLightningModule.application)
    module = model.module
    assert isinstance(module, TextLightningModule)
    ema = (1 if module.ema_params1 else 0) if settings.ema is None else settings.ema
    settings = replace(settings, ema=ema)
    if ema:
        # Raises before the text is read if the average does not exist.
        module.ema_parameters(ema)
        module.warn_of_start(ema)
    folder = writable_folder(out)
    texts = read_texts(module, checkpoint, data_path, val_path)
    ids = spread_windows(texts.held_out, settings.num_texts)
    report: dict[str, Any] = {"checkpoint": str(checkpoint), "seed": settings.seed, "ema": ema}
    sheet = ScoreSheet()
    report["held_out"] = score_readings(module, ids, texts.train.stream, settings, sheet)
    report["recovery"] = score_recovery(model, ids, settings, sheet)
    if settings.num_samples:
        samples = _generate(model, settings)
        samples.save(folder / SAMPLES_NAME)
        report["samples"] = judge_samples(
            module, samples, texts.train.stream, texts.held_out.stream, sheet, seed=settings.seed
        )
    card = {
        **sampling_card(report["recovery"]["settings"], checkpoint),
        "seed": settings.seed,
        "num_images": settings.num_samples,
        "num_texts": len(ids),
        "reading_time": report["held_out"]["time_nearest_half"],
        "recovery_time": settings.recovery_time,
        "reference": {
            "held_out_sha256": _checksum(ids.numpy()),
            "train_sha256": _checksum(texts.train.stream.ids[:MOST_TOKENS]),
        },
    }
    report |= build_report(sheet, card, module.trained_on)
    _plot(folder / PLOT_NAME, report["held_out"])
    write_json(folder / REPORT_NAME, report)
    return report


def _checksum(ids: np.ndarray) -> str:
    """Return the SHA-256 of tokens, which are few enough to be in memory."""
    return hashlib.sha256(np.ascontiguousarray(ids).astype(np.int64).tobytes()).hexdigest()


def _generate(model: Model, settings: TextEvaluation) -> TextSamples:
    with meter("writing", settings.num_samples, unit="texts") as progress:
        samples = model.sample(
            num=settings.num_samples, seeds=settings.seed, on_progress=progress.update_share, **settings.call
        )
    assert isinstance(samples, TextSamples)
    return samples


def _plot(path: Path, held_out: Mapping[str, Any]) -> None:
    """Plot token accuracy over time, also without self-conditioning if the network uses it."""
    curves = {"the model": held_out["token_accuracy"]}
    if held_out["token_accuracy_one_pass"]:
        curves["the model, without self-conditioning"] = held_out["token_accuracy_one_pass"]
    plot_accuracy(
        path,
        {name: values_by_time(curve) for name, curve in curves.items()},
        baselines={
            "without context (Bayes)": values_by_time(held_out["context_free_baseline"]),
            "most frequent token": values_by_time(held_out["unigram_baseline"]),
        },
    )
