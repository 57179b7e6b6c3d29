"""The commands of micro-Doppler, in the words of its document: the stages, the whole pipeline, and the simulator.

Each function with a docstring is one command; jsonargparse makes its options and help from the signature.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal

from jitflow.training.requests import TrainingRequest

log = logging.getLogger(__name__)


def simulate(
    output_dir: str,
    num_users: int = 31,
    images_per_user: int = 150,
    val_fraction: float = 0.2,
    seed: int = 0,
    carrier_ghz: Literal[24, 77] = 24,
    window_sec: float = 2.5,
    img_size: int = 256,
    min_cadence_gap: float = 0.0,
    snr_db: tuple[float, float] = (18.0, 28.0),
    direction: Literal["toward", "away", "both"] = "toward",
    colours: Literal["viridis", "jet", "turbo", "grey"] = "viridis",
    layout: Literal["class_folders", "flat"] = "class_folders",
    num_processes: int | None = None,
) -> None:
    """Simulate spectrograms of walking people in the folder layout of stage 1; see docs/gait_simulator.md.

    Run again, it finishes what was interrupted.

    Args:
        output_dir: Folder for train/ID_1/..., val/ID_1/... and simulation.json.
        num_users: People.
        images_per_user: Pictures of each, training and validation together.
        val_fraction: Share of each user's pictures under val/.
        seed: Seed of everything.
        carrier_ghz: Carrier of the radar in GHz: 24 or 77.
        window_sec: Time that a picture shows, seconds.
        img_size: Side of the pictures in pixels.
        min_cadence_gap: Least difference between the users' step frequencies; 0.1 is 10 %, for at most 9 users.
        snr_db: Smallest and largest ratio of echo to noise, dB.
        direction: Way of walking: toward the radar, away from it, or both.
        colours: Colour map of the pictures: viridis, jet, turbo or grey.
        layout: class_folders (ID_1/...) or flat (user_01_sample_001.png).
        num_processes: Processes that simulate; all cores by default.
    """
    from jitflow.apps.microdoppler.gait import Variation, radar_for_carrier, settings_for_radar, write_dataset
    from jitflow.io.cores import available_cores
    from jitflow.io.progress import meter

    radar = radar_for_carrier(carrier_ghz * 1e9)
    lowest, highest = {"toward": (-3.0, 9.0), "away": (-9.0, 3.0), "both": (-6.2, 6.2)}[direction]
    settings = dataclasses.replace(
        settings_for_radar(radar),
        duration_sec=window_sec,
        height_px=img_size,
        width_px=img_size,
        velocity_min_m_s=lowest,
        velocity_max_m_s=highest,
        colour_map=colours,
    )
    with meter("simulating", num_users * images_per_user, unit="pictures") as progress:
        write_dataset(
            output_dir,
            num_users=num_users,
            images_per_user=images_per_user,
            val_fraction=val_fraction,
            seed=seed,
            radar=radar,
            settings=settings,
            variation=Variation(snr_db=snr_db, direction=direction),
            min_cadence_gap=min_cadence_gap,
            layout=layout,
            num_processes=num_processes or available_cores(),
            on_image=lambda done, in_all: progress.update(done),
        )
    log.info("%d pictures of %d people in %s", num_users * images_per_user, num_users, output_dir)


def extract(
    data_dir: str,
    output_path: str,
    vavae_path: str = "builtin",
    batch_size: int = 32,
    seed: int = 42,
    img_size: int = 256,
    val_fraction: float | None = None,
    num_processes: int = 1,
    device: str | None = None,
    sample: bool = True,
    overwrite: bool = False,
) -> None:
    """Stage 1: turn pictures of users into latents, train.safetensors and val.safetensors, once, before training.

    Run again, it goes on where it stopped, or reports what is there.

    Args:
        data_dir: Folder with train/ and val/, or with all pictures (see --val_fraction); users are folders that end in
            a number (ID_1, user01) or files user_01_sample_001.png.
        output_path: Folder of the results.
        vavae_path: vavae-imagenet256-f16d32-dinov2.pt or its like; builtin fits principal components instead.
        batch_size: Pictures at a time.
        seed: Seed of the draws from the latents' distribution, and of the split.
        img_size: Side in pixels that pictures are resized to (never cropped or flipped).
        val_fraction: Share of each user's pictures held out when there is no val/.
        num_processes: Processes that share the work.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
        sample: Draw from the latents' distribution, as the release does, or take its mean.
        overwrite: Replace results of other inputs.
    """
    from jitflow.apps.microdoppler.extract import extract as make_latents

    make_latents(
        data_dir,
        output_path,
        vavae_path=vavae_path,
        batch_size=batch_size,
        seed=seed,
        img_size=img_size,
        val_fraction=val_fraction,
        num_processes=num_processes,
        device=device,
        sample=sample,
        overwrite=overwrite,
    )


def train(
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
) -> TrainingRequest:
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
    settings: dict[str, Any] = {}
    if lr is not None:
        settings["schedule.min_lr"] = lr / 10
    if max_epochs is not None:
        # A short training loses little when it is cut off.
        settings["checkpoint.save_last_freq"] = max(1, max_epochs // 40)
    ending = "the best checkpoint: {best}"
    return TrainingRequest(words, output_dir, resume=resume, restart=restart, settings=settings, ending=ending)


def sample(
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


def evaluate(
    data_dir: str,
    generated_dir: str,
    out: str = "outputs/microdoppler_evaluation",
    seed: int = 0,
    val_fraction: float | None = None,
    split_seed: int = 42,
    settings: str | None = None,
) -> None:
    """Say whether generated pictures are any good: users, gait, variety and copies, against real ones.

    Args:
        data_dir: Real pictures, as for stage 1.
        generated_dir: Pictures of stage 3, of every user.
        out: Folder of evaluation.json, real_and_generated.png and confusion.png.
        seed: Seed of the classifiers.
        val_fraction: Share held out when data_dir has no val/, as for stage 1.
        split_seed: Seed of that split, as for stage 1.
        settings: JSON with the spectrogram settings of data that was not simulated here.
    """
    from jitflow.apps.microdoppler.judge import evaluate as judge

    judge(data_dir, generated_dir, out, seed, val_fraction, split_seed=split_seed, settings=settings)


def run(
    data_dir: str,
    output_dir: str,
    vavae_path: str = "builtin",
    batch_size: int = 32,
    max_epochs: int = 100,
    lr: float = 1e-4,
    devices: int = 1,
    generate_user_ids: list[int] = [1, 2, 3, 4, 5],  # noqa: B006 (never changed; jsonargparse reads it)
    num_samples_per_user: int = 4,
    skip_extraction: bool = False,
    skip_training: bool = False,
    skip_generation: bool = False,
    precision: str = "16-mixed",
    model: str = "LightningDiT-XL/1",
    seed: int = 42,
    guidance_scale: float = 4.0,
    num_steps: int = 250,
    img_size: int = 256,
    val_fraction: float | None = None,
    num_processes: int = 1,
    max_steps: int = -1,
    device: str | None = None,
) -> None:
    """Run all three stages; what is finished is left alone, and the first failure ends it.

    Args:
        data_dir: Pictures of users, see stage 1.
        output_dir: Folder for latent_features/, trained_models/ and generated_images/.
        vavae_path: vavae-imagenet256-f16d32-dinov2.pt or its like; builtin fits principal components instead.
        batch_size: Pictures or latents at a time.
        max_epochs: Length of the training.
        lr: Peak learning rate.
        devices: GPUs, or processes on the CPU, of the training.
        generate_user_ids: Users to draw, 1-based.
        num_samples_per_user: Pictures of each.
        skip_extraction: Leave stage 1 out.
        skip_training: Leave stage 2 out.
        skip_generation: Leave stage 3 out.
        precision: 16-mixed, bf16-mixed or 32-true; on a CPU half precision becomes 32-true.
        model: Name of the network (jitflow models 'LightningDiT*').
        seed: Seed of everything.
        guidance_scale: Guidance scale of sampling; 1 for none.
        num_steps: Steps of sampling.
        img_size: Side in pixels that pictures are resized to.
        val_fraction: Share of each user's pictures held out when there is no val/.
        num_processes: Processes of stage 1.
        max_steps: Optimiser steps after which training stops; -1 for no limit.
        device: Device of stages 1 and 3, and cpu for all; the fastest there is by default.
    """
    words = dict(locals())
    from jitflow.apps.microdoppler.stages import GENERATED, STAGES, PipelineSettings, plan, run_stages

    skip = [name for name in STAGES if words.pop(f"skip_{name}")]
    run_stages(plan(PipelineSettings(**words), skip))
    log.info("done: %s", Path(output_dir) / GENERATED)
