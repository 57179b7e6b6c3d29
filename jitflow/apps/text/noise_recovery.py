"""Text recovery: cover held-out text with noise, sample from there to the end, and compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jitflow.apps.text.evaluation_settings import TextEvaluation
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.recovery import RecoveryScores, text_recovery_accuracy, token_accuracy
from jitflow.apps.text.sampling import TextSamples
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.io.progress import meter
from jitflow.model import Model


def recover_texts(model: Model, ids: Tensor, t: float, **sampling: Any) -> tuple[TextSamples, RecoveryScores]:
    """Sample from noisy text to the end and compare the result with the text.

    Args:
        model: The model.
        ids: Token ids of whole images, shape ``(N, num_tokens)``.
        t: Time up to which they are covered with noise, in ``[0, 1)``.
        sampling: Seeds, callback and settings of :meth:`jitflow.model.Model.sample`.

    Returns:
        The samples, and how well they agree with the text.
    """
    samples = model.sample(texts=ids, start_time=t, **sampling)
    assert isinstance(samples, TextSamples) and isinstance(model.module, TextLightningModule)
    decode = model.module.tokenizer.decode
    # Whole windows: a document may end, and another begin, in the middle of one.
    true, recovered = ([decode(row) for row in rows.tolist()] for rows in (ids, samples.ids))
    return samples, text_recovery_accuracy(true, recovered)


def score_recovery(model: Model, ids: Tensor, settings: TextEvaluation, sheet: ScoreSheet) -> dict[str, Any]:
    """Measure text recovery from the evaluation's ``recovery_time``.

    Args:
        model: The model.
        ids: Held-out tokens, shape ``(N, num_tokens)``.
        settings: Time, seed and sampling.
        sheet: Takes the scores with their intervals.

    Returns:
        ``t``, ``text_recovery_accuracy``, ``exact`` and ``token_accuracy`` (shares), ``num_texts`` and ``settings``.
    """
    with meter("recovering", len(ids), unit="texts") as progress:
        samples, scores = recover_texts(
            model,
            ids,
            settings.recovery_time,
            seeds=settings.seed,
            on_progress=progress.update_share,
            **settings.call,
        )
    assert isinstance(model.module, TextLightningModule)
    mask = ids != model.module.tokenizer.pad_id
    accuracies = torch.tensor(scores.accuracies)
    sheet.add_ratio("recovery/text_recovery_accuracy", accuracies, most=1)
    sheet.add_share("recovery/exact", accuracies == 1)
    sheet.add_ratio("recovery/token_accuracy", ((samples.ids == ids) & mask).sum(dim=1), mask.sum(dim=1), most=1)
    return {
        "t": settings.recovery_time,
        "text_recovery_accuracy": scores.accuracy,
        "exact": scores.exact,
        "token_accuracy": token_accuracy(samples.ids, ids, mask),
        "num_texts": scores.num_texts,
        "settings": samples.settings,
    }
