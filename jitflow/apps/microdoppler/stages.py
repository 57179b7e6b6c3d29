"""The complete micro-Doppler pipeline: extraction, training and generation, each a command in its own process."""

from __future__ import annotations

import logging
import shlex
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.sections import ExtractionOptions, GenerationOptions, TrainingOptions
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.errors import ConfigError, JitflowError
from jitflow.io.processes import run_command

log = logging.getLogger(__name__)

BEST_NAME = "best.ckpt"
STAGES = ("extraction", "training", "generation")
LATENTS, TRAINED, GENERATED = "latent_features", "trained_models", "generated_images"


def run_stages(stages: Sequence[tuple[str, list[str]]]) -> None:
    """Run the stages of the pipeline one after another and stop at the first failure.

    Each stage is a separate process, because Lightning starts further training processes by rerunning the command;
    see :func:`jitflow.io.processes.run_command` for what ends it.

    Args:
        stages: Name of each stage and its arguments after ``jitflow microdoppler``.

    Raises:
        JitflowError: If a stage fails; names it and the command that repeats it.
        KeyboardInterrupt: If it was interrupted; SystemExit after another signal.
    """
    for number, (name, arguments) in enumerate(stages, start=1):
        log.info("stage %d of %d: %s", number, len(stages), name)
        status = run_command(["microdoppler", *arguments])
        if status:
            how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
            raise JitflowError(
                f"{name} failed ({how}); its error message is above. Finished stages are kept; "
                f"fix the error and run the pipeline again, or this stage alone: "
                f"jitflow microdoppler {shlex.join(arguments)}"
            )


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of the complete pipeline; each is an option of one or more stages.

    Attributes:
        data_dir: Pictures of users.
        output_dir: Folder for ``latent_features/``, ``trained_models/`` and ``generated_images/``.
        vavae_path: File or folder of the autoencoder, or ``builtin``.
        batch_size: Pictures or latents at a time.
        max_epochs: Length of the training.
        lr: Peak learning rate; None for the one that suits the network.
        devices: Processes of the training.
        generate_user_ids: User ids to sample, 1-based; None for every user of the data.
        num_samples_per_user: Pictures of each user.
        seed: Seed of all random generators.
        device: Device of extraction and sampling; the fastest available by default.
        extraction: Settings of the extraction.
        training: Settings of the training.
        generation: Settings of sampling.
    """

    data_dir: str
    output_dir: str
    vavae_path: str
    batch_size: int
    max_epochs: int
    lr: float | None
    devices: int
    generate_user_ids: Sequence[int] | None
    num_samples_per_user: int
    seed: int
    device: str | None
    extraction: ExtractionOptions
    training: TrainingOptions
    generation: GenerationOptions


def plan(settings: PipelineSettings, skip: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """List the stages of the pipeline, each with its command-line arguments.

    Args:
        settings: Settings of the pipeline.
        skip: Names of ``STAGES`` to skip.

    Returns:
        Name and arguments of each stage.

    Raises:
        ConfigError: If a skipped stage has no results for the next one, or all stages are skipped.
    """
    out = Path(settings.output_dir)
    latents, trained = out / LATENTS, out / TRAINED
    best = trained / "checkpoints" / BEST_NAME
    if "extraction" in skip and "training" not in skip and not (latents / "train.safetensors").exists():
        raise ConfigError(f"--skip_extraction, but there are no latents in {latents}")
    if "training" in skip and "generation" not in skip and not best.exists():
        raise ConfigError(f"--skip_training, but there is no {best}")
    stages = {
        "extraction": _extraction(settings, latents),
        "training": _training(settings, latents, trained),
        "generation": _generation(settings, best, out / GENERATED),
    }
    chosen = [(name, stages[name]) for name in STAGES if name not in skip]
    if not chosen:
        raise ConfigError("all three stages are skipped; there is nothing to do")
    return chosen


def check_users(settings: PipelineSettings, skip: Sequence[str] = ()) -> None:
    """Raise ConfigError if a user to be sampled has no spectrograms, before hours of training.

    Args:
        settings: Settings of the pipeline.
        skip: Names of ``STAGES`` to skip; without extraction the pictures need not exist any more.
    """
    if settings.generate_user_ids is None or {"extraction", "generation"} & set(skip):
        return
    share = settings.extraction.val_fraction
    known = find_user_images(settings.data_dir, val_fraction=share, seed=settings.seed).user_ids
    unknown = [user for user in settings.generate_user_ids if user not in known]
    if unknown:
        raise ConfigError(
            f"--generate_user_ids: {settings.data_dir} has no user {unknown[0]}; its users are "
            f"{', '.join(map(str, known))}, all of which are sampled without this option"
        )


def _extraction(settings: PipelineSettings, latents: Path) -> list[str]:
    return _command(
        "extract",
        data_dir=settings.data_dir,
        vavae_path=settings.vavae_path,
        output_path=latents,
        batch_size=settings.batch_size,
        seed=settings.seed,
        **asdict(settings.extraction),
        device=settings.device,
    )


def _training(settings: PipelineSettings, latents: Path, trained: Path) -> list[str]:
    return _command(
        "train",
        latent_dir=latents,
        output_dir=trained,
        batch_size=settings.batch_size,
        max_epochs=settings.max_epochs,
        lr=settings.lr,
        devices=settings.devices,
        seed=settings.seed,
        **settings.training.options(),
        **{"trainer.accelerator": "cpu" if settings.device == "cpu" else None},
    )


def _generation(settings: PipelineSettings, checkpoint: Path, generated: Path) -> list[str]:
    return _command(
        "sample",
        dit_checkpoint=checkpoint,
        vavae_path=settings.vavae_path,
        output_dir=generated,
        user_ids=settings.generate_user_ids,
        num_samples_per_user=settings.num_samples_per_user,
        seed=settings.seed,
        **asdict(settings.generation),
        device=settings.device,
    )


def _command(verb: str, **options: Any) -> list[str]:
    """Build a command line: a verb, and each option that is not None with its value or values."""
    arguments = [verb]
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            arguments += [f"--{name}", *map(str, values)]
    return arguments
