"""Features of generated images, and their scores against real ones: FID, Inception score, KID, precision, recall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from jitflow.errors import DataError
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.inception_score import inception_score
from jitflow.evaluation.kid import kernel_inception_distance
from jitflow.evaluation.manifold import precision_and_recall
from jitflow.evaluation.moments import Moments
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.reference import Reference, load_reference
from jitflow.host import full_float32
from jitflow.model import Model

# Rows per update of the moments, which bounds memory.
_CHUNK = 1000
_INCEPTION_SPLITS = 10
_KID_SUBSET = 1000


def extract(
    model: Model,
    plan: Plan,
    index: range,
    extractor: FeatureExtractor,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Generate images and extract their features.

    Args:
        model: The model.
        plan: The sampling plan.
        index: Indices of the images.
        extractor: Feature extractor, on the model's device.
        on_progress: See :meth:`Model.sample`.

    Returns:
        ``features`` ``(N, D)`` and, if the extractor classifies, ``logits`` ``(N, K)``, float32; ``pixels``
        ``(N, C, H, W)``, uint8; all on the CPU.
    """
    pixels = plan.part(model, index, on_progress).pixels
    with full_float32():
        outputs = [extractor(batch.to(model.module.device)) for batch in pixels.split(plan.batch_size)]
    found = {"features": torch.cat([o.features.float().cpu() for o in outputs]), "pixels": pixels}
    if outputs[0].logits is not None:
        found["logits"] = torch.cat([o.logits.float().cpu() for o in outputs if o.logits is not None])
    return found


def reference_of(model: Model, spec: str | Path, extractor: FeatureExtractor, *, batch_size: int) -> Reference:
    """Load the reference of real images at a model's size and channels.

    Args:
        model: The model.
        spec: As in :func:`jitflow.evaluation.reference.load_reference`.
        extractor: The feature extractor.
        batch_size: Images per batch.
    """
    channels, height, width = model.module.codec.shape
    return load_reference(
        spec,
        extractor,
        img_size=(height, width),
        channels=channels,
        device=model.module.device.type,
        batch_size=batch_size,
    )


def frechet_name(extractor: FeatureExtractor) -> str:
    """Return the name of an extractor's Frechet distance: ``fid`` is reserved for Inception."""
    return "fid" if extractor.name.startswith("inception") else "frechet_distance"


def score(
    features: Tensor,
    logits: Tensor | None,
    reference: Reference,
    extractor: FeatureExtractor,
    *,
    per_image: bool = True,
) -> dict[str, float]:
    """Compute the scores of generated features against real ones.

    Args:
        features: Shape ``(N, D)``, float32, in the order of the images' indices.
        logits: Shape ``(N, K)``, or None.
        reference: Features of the real images.
        extractor: The extractor of the features, which determines the scores' names.
        per_image: Also compute the scores of single images (KID, precision, recall), if the reference has its features.

    Returns:
        ``fid`` (``frechet_distance`` for another extractor than Inception); with logits ``inception_score``
        (``classifier_score``); ``kid``, ``kid_std``, ``precision``, ``recall``.

    Raises:
        DataError: If features hold NaN or are all equal.
    """
    moments = Moments(features.shape[1])
    for part in features.split(_CHUNK):
        moments.update(part)
    if not bool(moments.covariance.diagonal().gt(0).any()):
        raise DataError("all generated images have the same features; the model has collapsed or never learned")
    name = frechet_name(extractor)
    metrics = {name: frechet_distance(moments.mean, moments.covariance, *reference.statistics)}
    if logits is not None:
        metrics["inception_score" if name == "fid" else "classifier_score"] = inception_score(
            logits, min(_INCEPTION_SPLITS, len(logits))
        ).mean
    if per_image and reference.features is not None:
        subset = min(_KID_SUBSET, len(features), len(reference.features))
        kid = kernel_inception_distance(features, reference.features, subset_size=subset)
        metrics.update(kid=kid.mean, kid_std=kid.std)
        manifold = precision_and_recall(reference.features, features)
        metrics.update(precision=manifold.precision, recall=manifold.recall)
    return metrics


def sample_size_warnings(num_images: int, extractor: FeatureExtractor, reference: Reference) -> list[str]:
    """Warn if there are fewer images than feature dimensions, which biases the Frechet distance.

    Args:
        num_images: Generated images.
        extractor: The extractor, for its dimension.
        reference: The reference of real images.
    """
    counts = {"generated": num_images, "real": reference.record.get("num_images")}
    return [
        f"{count} {which} images are too few for {extractor.dim} feature dimensions: the covariance is singular "
        f"and the distance biased upwards; use at least {extractor.dim + 1}"
        for which, count in counts.items()
        if count is not None and count <= extractor.dim
    ]
