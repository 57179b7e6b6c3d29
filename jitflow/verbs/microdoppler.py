"""The commands of micro-Doppler: ``jitflow microdoppler <what>`` and the scripts at the checkout's root.

Each function with a docstring is one command; jsonargparse makes its options and help from the signature.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from jitflow.applications import get_application, load_object
from jitflow.verbs.commands import run_group

log = logging.getLogger(__name__)


def microdoppler(args: list[str]) -> None:
    """Run ``jitflow microdoppler``."""
    own = get_application("microdoppler").commands
    names = ("simulate", "extract", "train", "sample", "evaluate", "run")
    shared: dict[str, Any] = {"train": _train, "sample": _sample}
    run_group("microdoppler", {name: shared.get(name) or load_object(own[name]) for name in names}, args)


def _train(
    latent_dir: str,
    output_dir: str,
    batch_size: int | None = None,
    max_epochs: int | None = None,
    lr: float | None = None,
    devices: int | None = None,
    precision: str | None = None,
    seed: int | None = None,
    model: str | None = None,
    net_settings: dict[str, Any] | None = None,
    max_steps: int | None = None,
    warmup_epochs: float | None = None,
    ema_decay: float | None = None,
    cosine_weight: float | None = None,
    label_drop_prob: float | None = None,
    prediction: Literal["velocity", "data", "noise"] | None = None,
    noise_scale: float | None = None,
    P_mean: float | None = None,
    P_std: float | None = None,
    gradient_clip: float | None = None,
    gradient_checkpointing: bool | None = None,
    compile: bool | Literal["blocks", "network"] | None = None,
    accelerator: Literal["auto", "gpu", "cpu"] | None = None,
    num_workers: int | None = None,
    check_val_every_n_epoch: int | None = None,
    resume: str | None = None,
    restart: bool = False,
) -> None:
    """Stage 2: train a user-conditioned LightningDiT on latents; writes checkpoints/best.ckpt and lightning_logs/.

    Run again, it goes on where it stopped; a finished training is left alone. Options that are null take the default
    named below; with --resume, the recorded value.

    Args:
        latent_dir: Folder of stage 1.
        output_dir: Folder of the results.
        batch_size: Latents per step and device, 32.
        max_epochs: Length of the training, 100.
        lr: Peak learning rate, 1e-4, lowered along a cosine to a tenth.
        devices: GPUs, or processes on the CPU; 1.
        precision: 16-mixed, bf16-mixed or 32-true; 16-mixed. On a CPU half precision becomes 32-true.
        seed: Seed of everything random, 42.
        model: Name of the network (jitflow models 'LightningDiT*'), LightningDiT-XL/1, which needs a large GPU.
        net_settings: Arguments of the network that replace the variant's, such as {"depth":6}.
        max_steps: Optimiser steps after which to stop whatever the epochs; -1, no limit.
        warmup_epochs: Length of the linear warm-up, 1, but no more than half of the training.
        ema_decay: Decay of the average that is sampled from, 0.999.
        cosine_weight: Factor of the loss of the velocity's direction, 1; 0 leaves it out.
        label_drop_prob: Share of labels replaced by "no user", which guidance needs; 0.1.
        prediction: What the network predicts, velocity.
        noise_scale: Standard deviation of the noise, 1; more where few tokens hold many numbers.
        P_mean: Mean of the logit of the training times, 0; lower is noisier.
        P_std: Standard deviation of the logit of the training times, 1.
        gradient_clip: Largest norm of the gradient, 1; 0 for no limit.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory; false.
        compile: Compile every block with torch.compile (true), or the whole network as one (network); false.
        accelerator: auto, gpu or cpu; auto.
        num_workers: Loader processes, 0.
        check_val_every_n_epoch: Epochs between two validations, 1.
        resume: Go on with a checkpoint, the newest of a folder, or the newest of --output_dir (auto).
        restart: Throw away what a training left in the folder, and begin anew.
    """
    words = dict(locals())
    from jitflow.verbs.documented import train_documented

    settings: dict[str, Any] = {}
    if lr is not None:
        settings["schedule.min_lr"] = lr / 10
    if max_epochs is not None:
        # A short training loses little when it is cut off.
        settings["checkpoint.save_last_freq"] = max(1, max_epochs // 40)
    run = train_documented("microdoppler", words, output_dir, resume=resume, restart=restart, settings=settings)
    log.info("the best checkpoint: %s", run.best or run.checkpoint)


def _sample(
    dit_checkpoint: str,
    output_dir: str,
    vavae_path: str = "builtin",
    user_ids: list[int] = [1, 2, 3, 4, 5],  # noqa: B006 (never changed; jsonargparse reads it)
    num_samples_per_user: int = 4,
    guidance_scale: float = 4.0,
    num_steps: int = 250,
    seed: int = 42,
    device: str | None = None,
    batch_size: int = 32,
    solver: Literal["euler", "heun", "midpoint", "multistep"] | None = None,
    interval: tuple[float, float] | None = None,
    ema: float = 1,
) -> None:
    """Stage 3: draw pictures of users, micro_doppler_user01_001.png and so on, and micro_doppler_grid.png.

    Args:
        dit_checkpoint: best.ckpt of stage 2, or a checkpoint of the LightningDiT release.
        output_dir: Folder of the results.
        vavae_path: The VA-VAE that made the latents; builtin takes the codec inside the checkpoint.
        user_ids: Users' numbers, 1-based.
        num_samples_per_user: Pictures of each.
        guidance_scale: Guidance scale; 1 for none.
        num_steps: Steps of the solver.
        seed: Names all pictures.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
        batch_size: Pictures at a time.
        solver: euler, heun, midpoint or multistep; the model's own by default.
        interval: Times between which guidance acts; the model's own by default.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves.
    """
    from jitflow.apps.microdoppler.generate import GRID_NAME, generate

    folder = generate(
        dit_checkpoint,
        output_dir,
        vavae_path=vavae_path,
        user_ids=user_ids,
        num_samples_per_user=num_samples_per_user,
        guidance_scale=guidance_scale,
        num_steps=num_steps,
        seed=seed,
        device=device,
        batch_size=batch_size,
        solver=solver,
        interval=interval,
        ema=ema,
    )
    log.info("%d pictures in %s; look at %s", len(user_ids) * num_samples_per_user, folder, folder / GRID_NAME)
