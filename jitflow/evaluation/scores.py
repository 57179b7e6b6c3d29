"""Features of generated images, and their scores against real ones, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.errors import ConfigError
from jitflow.evaluation.features import FeatureExtractor, InceptionExtractor
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.frechet_samples import FrechetReference, FrechetSample, moments_of
from jitflow.evaluation.inception_score import inception_score
from jitflow.evaluation.intervals import Interval, bootstrap_mean, disjoint_sets, groups_of, jackknife, share
from jitflow.evaluation.kid import kernel_inception_distance, squared_discrepancy
from jitflow.evaluation.manifold import memberships
from jitflow.evaluation.nearest import thumbnails_of
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.reference import Reference, load_references
from jitflow.host import full_float32
from jitflow.model import Model

_INCEPTION_SPLITS = 10
_KID_SUBSET = 1000
# Of density and coverage, in their paper; that of precision and recall is lower.
_NEIGHBOURS = 5


@dataclass
class Scores:
    """Scores of generated samples in one feature space.

    Attributes:
        metrics: Scores by name.
        intervals: Their intervals, for those that have one.
        ratio: Frechet distance of the samples over that of validation data, with equal counts; without each group of
            the samples too. None without validation data.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    ratio: FrechetSample | None = None

    def add(self, name: str, value: float, interval: Interval | None = None) -> None:
        """Add a score."""
        self.metrics[name] = value
        if interval is not None:
            self.intervals[name] = interval


def extract(
    model: Model,
    plan: Plan,
    index: range,
    extractors: Mapping[str, FeatureExtractor],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Generate images and extract their features, in one pass over the images for all extractors.

    Args:
        model: The model.
        plan: The sampling plan.
        index: Indices of the images.
        extractors: Feature extractors by name, on the model's device.
        on_progress: See :meth:`Model.sample`.

    Returns:
        ``features/NAME`` ``(N, D)`` and, of an extractor that classifies, ``logits/NAME`` ``(N, K)``, float32;
        ``pixels`` ``(N, C, H, W)`` and ``thumbnails`` ``(N, C, S, S)``, uint8; all on the CPU.
    """
    pixels = plan.part(model, index, on_progress).pixels
    found: dict[str, list[Tensor]] = {}
    for batch in pixels.split(plan.batch_size):
        images = batch.to(model.module.device)
        for name, extractor in extractors.items():
            with full_float32():
                features, logits = extractor(images)
            found.setdefault(f"features/{name}", []).append(features.float().cpu())
            if logits is not None:
                found.setdefault(f"logits/{name}", []).append(logits.float().cpu())
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    return {"pixels": pixels, "thumbnails": thumbnails_of(pixels), **whole}


def references_of(
    model: Model, spec: str | Path, extractors: Mapping[str, FeatureExtractor], *, batch_size: int
) -> dict[str, Reference]:
    """Load the reference of real images at a model's size and channels.

    Args:
        model: The model.
        spec: As in :func:`jitflow.evaluation.reference.load_references`.
        extractors: The feature extractors by name.
        batch_size: Images per batch.
    """
    channels, height, width = model.module.codec.shape
    settings: dict[str, Any] = {"img_size": (height, width), "channels": channels, "batch_size": batch_size}
    return load_references(spec, extractors, device=model.module.device.type, **settings)


def frechet_name(extractor: FeatureExtractor) -> str:
    """Return the name of an extractor's Frechet distance: ``fid`` is reserved for Inception as TensorFlow ran it."""
    return "fid" if extractor.name == InceptionExtractor.name else "frechet_distance"


def frechet_only(features: Tensor, logits: Tensor | None, reference: Reference, name: str) -> dict[str, float]:
    """Compute the Frechet distance, and with logits the Inception score, for a sweep.

    Args:
        features: Shape ``(N, D)``, float32.
        logits: Shape ``(N, K)``, or None.
        reference: The real images.
        name: Name of the distance, see :func:`frechet_name`.

    Returns:
        The scores by name.

    Raises:
        DataError: If features hold NaN.
    """
    moments = moments_of(features)
    metrics = {name: frechet_distance(moments.mean, moments.covariance, *reference.statistics)}
    if logits is not None:
        score = inception_score(logits, min(_INCEPTION_SPLITS, len(logits)))
        metrics["inception_score" if name == "fid" else "classifier_score"] = score.mean
    return metrics


def score(
    features: Tensor,
    logits: Tensor | None,
    reference: Reference,
    name: str,
    *,
    validation: Reference | None = None,
    infinity: bool = False,
) -> Scores:
    """Compute the scores of generated features against real ones, with their intervals.

    Args:
        features: Shape ``(N, D)``, float32, in the order of the images' indices.
        logits: Shape ``(N, K)``, or None.
        reference: The training images.
        name: Name of the Frechet distance, see :func:`frechet_name`.
        validation: Real images that the model was not trained on, for the ratio of Frechet distances.
        infinity: Also extrapolate the Frechet distance to infinitely many images.

    Returns:
        ``fid`` or ``frechet_distance``, with ``..._bias`` and ``..._infinity``; with validation images
        ``frechet_validation`` and ``frechet_ratio``; with logits ``inception_score`` or ``classifier_score``; if the
        reference has features ``kid``, ``kid_std``, ``precision``, ``recall``, ``density``, ``coverage``.

    Raises:
        ConfigError: If there are too few images to extrapolate, or validation images cannot be brought to their number.
        DataError: If features hold NaN or are all equal.
    """
    found = Scores()
    real = FrechetReference(reference.statistics)
    sample = real.sample(features)
    found.add(name, sample.value, sample.interval)
    if sample.bias is not None:
        found.add(f"{name}_bias", sample.bias)
    if infinity:
        value = real.at_infinity(features)
        found.add(f"{name}_infinity", value, jackknife(value, real.infinity_without_groups(features)))
    if validation is not None:
        _add_ratio(found, features, sample, real, validation)
    if logits is not None:
        splits = inception_score(logits, min(_INCEPTION_SPLITS, len(logits)))
        interval = disjoint_sets(splits.of_splits, value=splits.mean) if len(splits.of_splits) > 1 else None
        found.add("inception_score" if name == "fid" else "classifier_score", splits.mean, interval)
    if reference.features is not None:
        _add_of_images(found, reference.features, features)
    return found


def _add_ratio(
    found: Scores, features: Tensor, sample: FrechetSample, real: FrechetReference, validation: Reference
) -> None:
    """Add the Frechet distance of validation data and the ratio to it, at equal numbers of images."""
    num = equal_count(len(features), validation)
    below = real.sample(validation.spread(num)) if validation.features is not None else None
    value = frechet_distance(*validation.statistics, *real.statistics) if below is None else below.value
    found.add("frechet_validation", value, None if below is None else below.interval)
    above = sample if num == len(features) else real.sample(features[:num])
    found.ratio = FrechetSample(above.value / value, above.without / value, num, above.dim)
    found.add("frechet_ratio", found.ratio.value, found.ratio.interval)


def equal_count(num_images: int, validation: Reference) -> int:
    """Return how many generated images and validation images are compared with the training images.

    Args:
        num_images: Generated images.
        validation: The validation images.

    Returns:
        The smaller number.

    Raises:
        ConfigError: If there are more validation images than generated ones and only their statistics are known.
    """
    there = validation.num_images
    if validation.features is None and there is not None and there > num_images:
        raise ConfigError(
            f"--validation has statistics of {there} images and no features, so they cannot be compared at the "
            f"{num_images} images of this evaluation; give the folder of images, or draw {there}"
        )
    return num_images if there is None else min(num_images, there)


def _add_of_images(found: Scores, real: Tensor, features: Tensor) -> None:
    """Add the scores of single images: KID, precision, recall, density and coverage."""
    smaller = min(len(features), len(real))
    kid = kernel_inception_distance(features, real, subset_size=min(_KID_SUBSET, smaller))
    sets = [squared_discrepancy(features[group], real[group]) for group in groups_of(smaller)]
    found.add("kid", kid.mean, disjoint_sets(sets, value=kid.mean) if sets else None)
    found.add("kid_std", kid.std)
    if smaller <= _NEIGHBOURS:
        return
    for name, values in memberships(real, features, k_density=_NEIGHBOURS)._asdict().items():
        interval = share(values) if values.dtype == torch.bool else bootstrap_mean(values, seed=0)
        found.add(name, float(values.double().mean()), interval)


def fdr(ratios: Mapping[str, FrechetSample]) -> Scores:
    """Average the ratios of Frechet distances over feature spaces.

    Args:
        ratios: The ratio in each space, of the same samples.

    Returns:
        ``arithmetic`` mean, which is FDr of the papers, and ``geometric``, which no single space can dominate.

    Raises:
        ConfigError: If there is no ratio.

    References:
        Yang et al. 2026, "Representation Frechet loss for visual generation", arXiv:2604.28190.
    """
    if not ratios:
        raise ConfigError("a mean over feature spaces needs at least one ratio; give --validation")
    found = Scores()
    values = torch.tensor([ratio.value for ratio in ratios.values()], dtype=torch.float64)
    without = torch.stack([ratio.without for ratio in ratios.values()])
    for name, mean in (("arithmetic", _arithmetic), ("geometric", _geometric)):
        value, replicates = float(mean(values)), mean(without)
        found.add(name, value, jackknife(value, replicates) if len(replicates) > 1 else None)
    return found


def _arithmetic(ratios: Tensor) -> Tensor:
    return ratios.mean(dim=0)


def _geometric(ratios: Tensor) -> Tensor:
    return ratios.clamp(min=torch.finfo(ratios.dtype).tiny).log().mean(dim=0).exp()


def sample_size_warnings(num_images: int, extractor: FeatureExtractor, reference: Reference) -> list[str]:
    """Warn if there are fewer images than feature dimensions, which biases the Frechet distance.

    Args:
        num_images: Generated images.
        extractor: The extractor, for its dimension.
        reference: The reference of real images.
    """
    counts = {"generated": num_images, "real": reference.num_images}
    return [
        f"{count} {which} images are too few for the {extractor.dim} feature dimensions of {extractor.name}: the "
        f"covariance is singular and the distance biased upwards; use at least {extractor.dim + 1}"
        for which, count in counts.items()
        if count is not None and count <= extractor.dim
    ]
