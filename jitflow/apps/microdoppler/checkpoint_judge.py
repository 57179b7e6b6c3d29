"""Judge and scorer of user spectrograms, for ``jitflow evaluate`` and ``jitflow sweep``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from jitflow.apps.microdoppler.generate import generate
from jitflow.apps.microdoppler.identity import train_classifier
from jitflow.apps.microdoppler.judge import REPORT_NAME, evaluate
from jitflow.apps.microdoppler.labelled_images import read_real
from jitflow.apps.microdoppler.leakage import find_leakage, log_leakage
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.sections import RealDataOptions
from jitflow.apps.microdoppler.stages import GENERATED
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.errors import MOST_SAMPLES, ConfigError, check_count
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.request import EvaluationRequest
from jitflow.io.files import file_checksum
from jitflow.io.results_folder import free_folder
from jitflow.model import BUILTIN, Model
from jitflow.training.precision import resolve_precision

_EACH = 40
log = logging.getLogger(__name__)
_NO_REFERENCE = "spectrograms are compared with the pictures of the latents: give --reference FOLDER"


@dataclass(frozen=True)
class UserJudge(RealDataOptions):
    """Judge of ``jitflow evaluate``: sample spectrograms of every user and compare them with real ones.

    Attributes:
        vavae_path: The autoencoder that made the latents; builtin takes the codec inside the checkpoint.
    """

    vavae_path: str = BUILTIN

    def __call__(self, request: EvaluationRequest) -> None:
        """Evaluate a checkpoint and print tables; arguments as in :class:`jitflow.evaluation.request.Judge`."""
        if request.reference is None:
            raise ConfigError(_NO_REFERENCE)
        users = find_user_images(request.reference, val_fraction=self.val_fraction, seed=self.split_seed).user_ids
        number = _EACH * len(users) if request.num_images is None else request.num_images
        check_count("num_images", number, most=MOST_SAMPLES)
        if number < 1 or number % len(users):
            raise ConfigError(f"num_images must be a multiple of the {len(users)} users; got {number}")
        given = request.settings("guidance", "interval", "solver", "steps")
        out = free_folder(request.out, lambda folder: (folder / REPORT_NAME).exists())
        if request.dry_run:
            log.info("would draw %d spectrograms of %d users into %s", number, len(users), out)
            return
        drawn = generate(
            request.checkpoint,
            out / GENERATED,
            vavae_path=self.vavae_path,
            user_ids=users,
            num_samples_per_user=number // len(users),
            guidance_scale=given["guidance"],
            num_steps=given["steps"],
            seed=request.seed,
            device=request.compute.device,
            batch_size=request.compute.batch_size,
            precision=request.compute.precision,
            solver=given["solver"],
            interval=given["interval"],
            ema=1 if request.ema is None else request.ema,
        )
        real = {name: getattr(self, name) for name in ("val_fraction", "split_seed", "settings")}
        evaluate(request.reference, str(drawn), str(out), request.seed, **real)


class IdentityScorer:
    """Scorer of ``jitflow sweep``: accuracy of a user classifier, trained on real pictures, on generated ones.

    Args:
        model: The model.
        base: Number of pictures, a multiple of the users, seed, precision and batch size.
        reference: Real pictures, as for stage 1.
        extractor: Not used; it belongs to scores that compare features.

    Raises:
        ConfigError: If there is no reference, or the number is not a multiple of the users.
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
        log_leakage(find_leakage(found))
        pixels = model.sample([0], [base.seed], steps=1, ema=0).pixels
        assert isinstance(model.module, UserConditionedDiT)
        train, val = read_real(found, (pixels.shape[2], pixels.shape[3]), model.module.arrays)
        self._model = model
        self._judge = train_classifier(*train, len(found.user_ids), seed=base.seed)
        real = float((self._judge.predict(val[0]) == val[1]).double().mean())
        self.card: dict[str, Any] = {
            "checkpoint": model.source,
            "checkpoint_sha256": file_checksum(model.source) if model.source else None,
            "num_images": base.num_images,
            "seed": base.seed,
            "precision": resolve_precision(base.precision, model.module.device),
            "reference": str(reference),
            "identity_accuracy_real": real,
        }
        self.options = ["--reference", str(reference), "--precision", self.card["precision"]]

    def __call__(self, plan: Plan, on_progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """Generate the plan's pictures and return the accuracy of the user classifier on them."""
        drawn = plan.part(self._model, range(plan.num_images), on_progress)
        predicted = self._judge.predict(drawn.pixels)
        return {self.score_name: float((predicted == torch.tensor(drawn.labels)).double().mean())}
