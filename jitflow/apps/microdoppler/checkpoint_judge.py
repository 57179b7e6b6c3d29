"""What ``jitflow evaluate`` and ``jitflow sweep`` mean for spectrograms of users: draw some of each, and judge them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from jitflow.apps.microdoppler.generate import generate
from jitflow.apps.microdoppler.identity import train_classifier
from jitflow.apps.microdoppler.judge import evaluate
from jitflow.apps.microdoppler.labelled_images import read_real
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.errors import ConfigError
from jitflow.evaluation.evaluate import Plan
from jitflow.io.files import file_checksum
from jitflow.model import Model, parse_interval

GENERATED = "generated_images"
_NO_REFERENCE = "spectrograms are judged against the pictures that the latents were made of: give --reference FOLDER"


def evaluate_command(
    checkpoint: str,
    reference: str | None = None,
    num_samples_per_user: int = 40,
    vavae_path: str = "builtin",
    guidance: float | None = None,
    interval: str | None = None,
    solver: Literal["euler", "heun", "midpoint", "multistep"] | None = None,
    steps: int | None = None,
    ema: float = 1,
    seed: int = 0,
    out: str = "outputs/microdoppler_evaluation",
    val_fraction: float | None = None,
    split_seed: int = 42,
    settings: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Score a model of spectrograms: draw pictures of every user, and compare them with real ones.

    Writes the pictures, evaluation.json, real_and_generated.png and confusion.png.

    Args:
        checkpoint: A checkpoint of stage 2.
        reference: Real pictures, as for stage 1.
        num_samples_per_user: Pictures to draw of each user.
        vavae_path: The VA-VAE that made the latents; builtin takes the codec inside the checkpoint.
        guidance: Guidance scale; the model's own by default, as for all that follow.
        interval: Times low,high between which guidance acts.
        solver: euler, heun, midpoint or multistep.
        steps: Steps of the solver.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves.
        seed: Names all pictures, and is the seed of the classifiers.
        out: Folder of the results.
        val_fraction: Share held out when the real pictures have no val/, as for stage 1.
        split_seed: Seed of that split, as for stage 1.
        settings: JSON with the spectrogram settings of data that was not simulated here.
        batch_size: Pictures at a time.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
    """
    if reference is None:
        raise ConfigError(_NO_REFERENCE)
    users = find_user_images(reference, val_fraction=val_fraction, seed=split_seed).user_ids
    drawn = generate(
        checkpoint,
        Path(out) / GENERATED,
        vavae_path=vavae_path,
        user_ids=users,
        num_samples_per_user=num_samples_per_user,
        guidance_scale=guidance,
        num_steps=steps,
        seed=seed,
        device=device,
        batch_size=batch_size,
        solver=solver,
        interval=parse_interval(interval) if interval is not None else None,
        ema=ema,
    )
    evaluate(reference, str(drawn), out, seed, val_fraction, split_seed=split_seed, settings=settings)


class IdentityScorer:
    """Scores pictures by the share in which a classifier of real pictures names the user they were made for.

    Args:
        model: The model.
        base: Number of pictures, a multiple of the users, seed, precision and batch size.
        reference: Real pictures, as for stage 1.
        extractor: Not used; it belongs to scores that compare features.

    Raises:
        ConfigError: If there is no reference, or the number cannot be balanced over the users.
    """

    score_name = "identity_accuracy"
    lower_is_better = False
    unit = "pictures"
    is_guided = True

    def __init__(self, model: Model, base: Plan, *, reference: str | None, extractor: str) -> None:
        if reference is None:
            raise ConfigError(_NO_REFERENCE)
        base.check(model.module.num_classes)
        found = find_user_images(reference)
        pixels = model.sample([0], [base.seed], steps=1, ema=0).pixels
        train, val = read_real(found, (pixels.shape[2], pixels.shape[3]))
        self._model = model
        self._judge = train_classifier(*train, len(found.user_ids), seed=base.seed)
        real = float((self._judge.predict(val[0]) == val[1]).double().mean())
        self.card: dict[str, Any] = {
            "checkpoint": model.source,
            "checkpoint_sha256": file_checksum(model.source) if model.source else None,
            "num_images": base.num_images,
            "seed": base.seed,
            "reference": str(reference),
            "identity_accuracy_real": real,
        }
        self.options = ["--reference", str(reference)]

    def __call__(self, plan: Plan, on_progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """Draw the plan's pictures and have them named."""
        drawn = plan.part(self._model, range(plan.num_images), on_progress)
        named = self._judge.predict(drawn.pixels)
        return {self.score_name: float((named == torch.tensor(drawn.labels)).double().mean())}
