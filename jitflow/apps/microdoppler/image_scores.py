"""Scores of generated spectrograms against real ones: identity, transfer, gait, diversity and copies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitflow.apps.microdoppler.diversity import Diversity, diversity_per_user
from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.gait_scores import score_gait
from jitflow.apps.microdoppler.identity import IdentityClassifier, confusion_matrix, train_classifier
from jitflow.apps.microdoppler.labelled_images import ImageSets
from jitflow.apps.microdoppler.physics import GaitTruth
from jitflow.apps.microdoppler.transfer import TransferScores, tstr_trtr
from jitflow.errors import ConfigError
from jitflow.evaluation.intervals import jackknife
from jitflow.evaluation.memorisation import Copies, copies_by_held_out
from jitflow.evaluation.nearest import Neighbours, nearest_of, pixel_vectors
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.io.progress import meter


class _Pair(NamedTuple):
    """The same quantity of generated and of real held-out images."""

    generated: Tensor
    real: Tensor


class ImageEvaluation(NamedTuple):
    """Scores of generated images, and what pictures and reports are made of.

    Attributes:
        scores: Plain values, ready for JSON; see :func:`evaluate_images`.
        sheet: The scores of the generated images that are compared between models, by ``SPACE/SCORE``. Users count as
            fixed: the intervals are of the images drawn of each.
        copies: Which generated images are copies of training images.
        nearest_train: The two nearest training images of each.
    """

    scores: dict[str, Any]
    sheet: ScoreSheet
    copies: Copies
    nearest_train: Neighbours


CLASSIFIER, GAIT, PIXELS = "user-classifier", "gait", "pixels"
"""Spaces in which generated images are judged, as reports and loss terms name them."""


def evaluate_images(
    sets: ImageSets,
    *,
    settings: SpectrogramSettings | None = None,
    truth: GaitTruth | None = None,
    codec_psnr_db: float | None = None,
    seed: int = 0,
    num_steps: int | None = None,
    span_db: float | None = None,
) -> ImageEvaluation:
    """Measure generated images of users against real ones.

    - Identity: a classifier trained on all real training images names the users of the generated images and, as the
      ceiling, of the real held-out ones.
    - Transfer: classifiers trained on generated images (``tstr``) and on as many real ones (``trtr``), both tested on
      the real held-out images.
    - Physics: share of images whose step frequency and torso speed, read from the picture, lie within 5 % of the
      user's; the same share of the real held-out images beside it, which is not 1, since walks vary.
    - Diversity: mean distance between images of a user over that of real held-out images, in the classifier's features
      and in pixels averaged to 64 x 64; 1 is as varied as real ones, 0 the same image every time.
    - Copies: share of generated images nearer to a training image than 99 % of the real held-out ones are.

    Memory beyond the images is small.

    Args:
        sets: Generated images, real training images and real held-out images.
        settings: Axes, range and colours of the images; None leaves the physics out, and says so.
        truth: How users walk; None takes the medians read from the real training images.
        codec_psnr_db: Reconstruction PSNR of the generator's codec, for the report; not measured here.
        seed: Seed of the classifiers.
        num_steps: Steps of each of the three trainings; None suits the number of images.
        span_db: For images of spectrogram arrays the decibels from black to white; None for pictures.

    Returns:
        The evaluation. Its ``scores``: by name (``..._real`` is what real held-out images reach), None where
        something was not or cannot be measured; ``users``, one dictionary for each; ``confusion`` and
        ``confusion_real``, counts by true and named user; ``predicted``, the label seen in each generated image.

    Raises:
        ConfigError: If shapes, sizes or labels do not fit together.
        DataError: If a user has fewer than 2 images in one of the three sets.
    """
    sets.check()
    num_users = len(sets.user_ids)
    if truth is not None and len(truth.step_frequency_hz) != num_users:
        raise ConfigError(f"truth is about {len(truth.step_frequency_hz)} users, but there are {num_users}")
    labels = _Pair(sets.generated.labels, sets.real_val.labels)
    classifier, transfer = _train_classifiers(sets, seed, num_steps)
    predicted = _Pair(classifier.predict(sets.generated.images), classifier.predict(sets.real_val.images))
    users: list[dict[str, Any]] = [{"user_id": int(user_id)} for user_id in sets.user_ids]
    gait, near_truth = score_gait(sets, users, settings, truth, span_db)
    pixels = _Pair(pixel_vectors(sets.generated.images), pixel_vectors(sets.real_val.images))
    variety, diversity = _score_variety(sets, pixels, classifier, users)
    train_pixels = pixel_vectors(sets.real_train.images)
    near, near_real = (nearest_of(vectors, train_pixels) for vectors in pixels)
    distances = _Pair(near.distances[:, 0], near_real.distances[:, 0])
    copies = copies_by_held_out(*distances)
    hits = {
        f"{CLASSIFIER}/identity_accuracy": predicted.generated == labels.generated,
        **{f"{GAIT}/{name}": hit for name, hit in near_truth.items()},
        f"{PIXELS}/copies": copies.is_copy,
    }
    sheet = ScoreSheet()
    order = _alternating(labels.generated)
    for name, hit in hits.items():
        sheet.add_share(name, hit[order])
    sheet.add_share(f"{CLASSIFIER}/tstr_accuracy", transfer.tstr_right[_alternating(labels.real)])
    for space, pair in ((PIXELS, diversity["pixels"]), (CLASSIFIER, diversity["features"])):
        _add_diversity(sheet, f"{space}/diversity", *pair)
    scores = {
        "num_generated": len(sets.generated.images),
        "num_real_train": len(sets.real_train.images),
        "num_real_val": len(sets.real_val.images),
        "num_users": num_users,
        "seed": seed,
        "codec_psnr_db": codec_psnr_db,
        **_score_identity(predicted, labels, users),
        "tstr_accuracy": transfer.tstr,
        "trtr_accuracy": transfer.trtr,
        "transfer_train_images": transfer.num_train,
        **gait,
        **variety,
        "nearest_train_median": float(distances.generated.quantile(0.5)),
        "nearest_train_median_real": float(distances.real.quantile(0.5)),
        "nearest_train_copy_threshold": copies.threshold,
        "nearest_train_copies": copies.share,
        "users": users,
        "confusion": confusion_matrix(labels.generated, predicted.generated, num_users).tolist(),
        "confusion_real": confusion_matrix(labels.real, predicted.real, num_users).tolist(),
        "predicted": predicted.generated.tolist(),
    }
    return ImageEvaluation(_without_nan(scores), sheet, copies, near)


def _alternating(labels: Tensor) -> Tensor:
    """Order images so that users alternate: consecutive groups of them then hold all users alike."""
    number = torch.zeros_like(labels)
    for user in labels.unique():
        own = labels == user
        number[own] = torch.arange(int(own.sum()))
    return number.argsort(stable=True)


def _add_diversity(sheet: ScoreSheet, name: str, generated: Diversity, real: Diversity) -> None:
    """Add the diversity of generated over that of held-out images, which count as fixed; nothing if they are equal."""
    whole = float(real.means.mean())
    if not whole > 0:
        return
    sheet.metrics[name] = float(generated.means.mean()) / whole
    if len(generated.without_groups):
        found = jackknife(sheet.metrics[name], generated.without_groups.mean(dim=1) / whole)
        sheet.intervals[name] = replace(found, low=max(0.0, found.low))


def _train_classifiers(sets: ImageSets, seed: int, num_steps: int | None) -> tuple[IdentityClassifier, TransferScores]:
    """Train the classifier of all real images, and the two whose accuracies are compared."""
    num_users = len(sets.user_ids)
    training: dict[str, Any] = {"seed": seed, "num_steps": num_steps}
    with meter("training classifiers", 3, unit="classifiers") as progress:
        classifier = train_classifier(
            *sets.real_train,
            num_users,
            **training,
            on_progress=lambda done, total: progress.update(done / total),
        )
        transfer = tstr_trtr(
            sets.generated,
            sets.real_train,
            sets.real_val,
            num_users,
            **training,
            on_progress=lambda done, total: progress.update(1 + 2 * done / total),
        )
    return classifier, transfer


def _score_identity(predicted: _Pair, labels: _Pair, users: list[dict[str, Any]]) -> dict[str, float]:
    """Share of images whose user is named rightly, of all users and, in ``users``, of each."""
    right = _Pair(*((p == y).double() for p, y in zip(predicted, labels, strict=True)))
    for count, suffix, y, correct in (
        ("num_generated", "", labels.generated, right.generated),
        ("num_real_val", "_real", labels.real, right.real),
    ):
        for label, user in enumerate(users):
            own = y == label
            user[count] = int(own.sum())
            user[f"identity_accuracy{suffix}"] = float(correct[own].mean())
    return {
        "identity_accuracy": float(right.generated.mean()),
        "identity_accuracy_real": float(right.real.mean()),
    }


def _score_variety(
    sets: ImageSets, pixels: _Pair, classifier: IdentityClassifier, users: list[dict[str, Any]]
) -> tuple[dict[str, float], dict[str, tuple[Diversity, Diversity]]]:
    """Diversity within users, in pixels and features: scores, and for each space that of generated and real images."""
    generated, real = sets.generated, sets.real_val
    features = _Pair(classifier.features(generated.images), classifier.features(real.images))
    scores: dict[str, float] = {}
    found: dict[str, tuple[Diversity, Diversity]] = {}
    for space, vectors in (("pixels", pixels), ("features", features)):
        found[space] = (
            diversity_per_user(vectors.generated, generated.labels, len(users)),
            diversity_per_user(vectors.real, real.labels, len(users)),
        )
        means = _Pair(*(diversity.means for diversity in found[space]))
        ratios = _ratio(means.generated, means.real)
        scores[f"diversity_{space}"] = float(means.generated.mean())
        scores[f"diversity_{space}_real"] = float(means.real.mean())
        scores[f"diversity_{space}_ratio"] = float(_ratio(means.generated.mean(), means.real.mean()))
        scores[f"diversity_{space}_ratio_lowest"] = float(ratios.min())
        for user, ratio in zip(users, ratios.tolist(), strict=True):
            user[f"diversity_{space}_ratio"] = ratio
    return scores, found


def _ratio(generated: Tensor, real: Tensor) -> Tensor:
    """Divide; NaN where real images do not differ at all."""
    return torch.where(real > 0, generated / real, torch.nan)


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
