"""The complete micro-Doppler pipeline: three stages, each a process of its own, what is finished left alone."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jitflow.errors import ConfigError, JitflowError

log = logging.getLogger(__name__)

BEST_NAME = "best.ckpt"
LATENTS, TRAINED, GENERATED = "latent_features", "trained_models", "generated_images"


def run_stages(stages: Sequence[tuple[str, list[str]]]) -> None:
    """Run the stages one after another and stop at the first that fails.

    Each is a process of its own: Lightning starts the others of a training by running its command again.

    Args:
        stages: Name of each stage and its words after ``jitflow microdoppler``.

    Raises:
        JitflowError: If a stage fails; says which, and the command that repeats it.
        KeyboardInterrupt: If a stage was interrupted.
    """
    for number, (name, words) in enumerate(stages, start=1):
        command = [sys.executable, "-m", "jitflow", "microdoppler", *words]
        log.info("stage %d of %d: %s", number, len(stages), name)
        status = subprocess.run(command, check=False).returncode
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise JitflowError(
                f"{name} failed (exit status {status}); its own message is above. What was finished stays; after "
                f"mending it, run the pipeline again, or this stage alone: "
                f"jitflow microdoppler {shlex.join(words)}"
            )


def plan(
    *,
    data_dir: str,
    output_dir: str,
    vavae_path: str,
    batch_size: int,
    max_epochs: int,
    lr: float,
    devices: int,
    generate_user_ids: Sequence[int],
    num_samples_per_user: int,
    precision: str,
    model: str,
    seed: int,
    guidance_scale: float,
    num_steps: int,
    img_size: int,
    val_fraction: float | None,
    num_processes: int,
    max_steps: int,
    device: str | None,
    skip: Sequence[str] = (),
) -> list[tuple[str, list[str]]]:
    """List the stages with their words; arguments are those of the three stages.

    Args:
        data_dir: Pictures of users.
        output_dir: Folder for ``latent_features/``, ``trained_models/`` and ``generated_images/``.
        vavae_path: File of the VA-VAE, or ``builtin``.
        batch_size: Pictures or latents at a time.
        max_epochs: Length of the training.
        lr: Peak learning rate.
        devices: Processes of the training.
        generate_user_ids: Users to draw, 1-based.
        num_samples_per_user: Pictures of each.
        precision: Precision of the training.
        model: Name of the network.
        seed: Seed of everything.
        guidance_scale: Guidance scale of sampling.
        num_steps: Steps of sampling.
        img_size: Side of the pictures in pixels.
        val_fraction: Share held out where there is no ``val/``.
        num_processes: Processes of the extraction.
        max_steps: Optimiser steps after which training stops; -1 for no limit.
        device: Device of extraction and sampling; the fastest there is by default.
        skip: Stages to leave out: ``extraction``, ``training``, ``generation``.

    Returns:
        Name and words of each stage.

    Raises:
        ConfigError: If a stage is left out whose results are not there, or nothing is left to do.
    """
    out = Path(output_dir)
    best = out / TRAINED / "checkpoints" / BEST_NAME
    if "extraction" in skip and "training" not in skip and not (out / LATENTS / "train.safetensors").exists():
        raise ConfigError(f"--skip_extraction, but there are no latents in {out / LATENTS}")
    if "training" in skip and "generation" not in skip and not best.exists():
        raise ConfigError(f"--skip_training, but there is no {best}")
    on_device = ["--device", device] if device is not None else []
    stages = {
        "extraction": [
            *("extract", "--data_dir", data_dir, "--vavae_path", vavae_path),
            *("--output_path", str(out / LATENTS), "--batch_size", str(batch_size), "--seed", str(seed)),
            *("--img_size", str(img_size), "--num_processes", str(num_processes)),
            *(["--val_fraction", str(val_fraction)] if val_fraction is not None else []),
            *on_device,
        ],
        "training": [
            *("train", "--latent_dir", str(out / LATENTS), "--output_dir", str(out / TRAINED)),
            *("--batch_size", str(batch_size), "--max_epochs", str(max_epochs), "--lr", str(lr)),
            *("--devices", str(devices), "--precision", precision, "--model", model, "--seed", str(seed)),
            *("--max_steps", str(max_steps)),
            *(["--accelerator", "cpu"] if device == "cpu" else []),
        ],
        "generation": [
            *("sample", "--dit_checkpoint", str(best), "--vavae_path", vavae_path),
            *("--output_dir", str(out / GENERATED), "--user_ids", *(str(u) for u in generate_user_ids)),
            *("--num_samples_per_user", str(num_samples_per_user), "--seed", str(seed)),
            *("--guidance_scale", str(guidance_scale), "--num_steps", str(num_steps)),
            *on_device,
        ],
    }
    chosen = [(name, words) for name, words in stages.items() if name not in skip]
    if not chosen:
        raise ConfigError("all three stages are skipped; there is nothing to do")
    return chosen
