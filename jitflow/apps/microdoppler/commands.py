"""The documented commands of micro-Doppler: the stages, the whole pipeline, and the simulator.

jsonargparse builds each command's options and help from the signature and docstring of its function.
"""

from __future__ import annotations

import dataclasses
import logging

from jitflow.apps.microdoppler.sections import (
    DatasetOptions,
    ExtractionOptions,
    GenerationOptions,
    RadarOptions,
    RealDataOptions,
    ReleaseOptions,
    SolverOptions,
    StageOptions,
    TrainingOptions,
)
from jitflow.training.sections import ComputeOptions, PrecisionOptions, parse_interval

log = logging.getLogger(__name__)
# The documented batch size.
_EXTRACTING, _SAMPLING = ComputeOptions(batch_size=32), PrecisionOptions(batch_size=32)


def simulate(
    output_dir: str,
    num_users: int = 31,
    images_per_user: int = 150,
    seed: int = 0,
    radar: RadarOptions = RadarOptions(),  # noqa: B008 (frozen)
    dataset: DatasetOptions = DatasetOptions(),  # noqa: B008 (frozen)
) -> None:
    """Simulate spectrograms of walking people in the folder layout of stage 1; see docs/gait_simulator.md.

    Run it again to finish an interrupted simulation. Options of a section can be given without it: --carrier_ghz 77.

    Args:
        output_dir: Folder for train/ID_1/..., val/ID_1/... and simulation.json.
        num_users: Number of people.
        images_per_user: Spectrograms of each person, training and validation together.
        seed: Seed of all random generators.
        radar: Simulated radar, walking people and spectrogram.
        dataset: Layout of the data set.
    """
    from jitflow.apps.microdoppler.gait import Variation, radar_for_carrier, settings_for_radar, write_dataset
    from jitflow.io.cores import available_cores
    from jitflow.io.progress import meter

    simulated = radar_for_carrier(radar.carrier_ghz * 1e9)
    lowest, highest = {"toward": (-3.0, 9.0), "away": (-9.0, 3.0), "both": (-6.2, 6.2)}[radar.direction]
    settings = dataclasses.replace(
        settings_for_radar(simulated),
        duration_sec=radar.window_sec,
        height_px=radar.img_size,
        width_px=radar.img_size,
        velocity_min_m_s=lowest,
        velocity_max_m_s=highest,
        colour_map=radar.colours,
    )
    with meter("simulating", num_users * images_per_user, unit="pictures") as progress:
        write_dataset(
            output_dir,
            num_users=num_users,
            images_per_user=images_per_user,
            val_fraction=dataset.val_fraction,
            seed=seed,
            radar=simulated,
            settings=settings,
            variation=Variation(snr_db=radar.snr_db, direction=radar.direction),
            min_cadence_gap=dataset.min_cadence_gap,
            layout=dataset.layout,
            file_format=dataset.files,
            num_processes=dataset.num_processes or available_cores(),
            on_image=lambda done, total: progress.update(done),
        )
    log.info("%d pictures of %d people in %s", num_users * images_per_user, num_users, output_dir)


def extract(
    data_dir: str,
    output_path: str,
    vavae_path: str = "builtin",
    seed: int = 42,
    overwrite: bool = False,
    extraction: ExtractionOptions = ExtractionOptions(),  # noqa: B008 (frozen)
    compute: ComputeOptions = _EXTRACTING,
    release: ReleaseOptions = ReleaseOptions(),  # noqa: B008 (frozen)
) -> None:
    """Stage 1: encode pictures of users as latents, train.safetensors and val.safetensors, once, before training.

    Run it again to resume an interrupted extraction, or to report a finished one. Options of a section can be given
    without it: --batch_size 32, --img_size 128.

    Args:
        data_dir: Folder with train/ and val/, or with all pictures or arrays (see --val_fraction); users are folders
            that end in a number (ID_1, user01) or files user_01_sample_001.png; or a manifest.csv or .parquet.
        output_path: Folder of the results.
        vavae_path: A VA-VAE such as vavae-imagenet256-f16d32-dinov2.pt, or the folder of a diffusers
            AutoencoderKL; builtin fits principal components instead.
        seed: Seed of sampling the latents' distribution, and of the split.
        overwrite: Replace results of other inputs.
        extraction: Settings of the extraction.
        compute: Device and batch size.
        release: Files for the code of the LightningDiT release.
    """
    from jitflow.apps.microdoppler.extract import extract as make_latents
    from jitflow.apps.microdoppler.latent_shards import write_shards

    make_latents(
        data_dir,
        output_path,
        vavae_path=vavae_path,
        seed=seed,
        overwrite=overwrite,
        **dataclasses.asdict(extraction),
        **dataclasses.asdict(compute),
    )
    if release.shards is not None:
        files = write_shards(output_path, release.shards)
        log.info("%d shards for the LightningDiT release in %s", len(files), release.shards)


def sample(
    dit_checkpoint: str,
    output_dir: str,
    vavae_path: str = "builtin",
    user_ids: list[int] | None = None,
    num_samples_per_user: int = 4,
    seed: int = 42,
    generation: GenerationOptions = GenerationOptions(),  # noqa: B008 (frozen)
    solver: SolverOptions = SolverOptions(),  # noqa: B008 (frozen)
    compute: PrecisionOptions = _SAMPLING,
) -> None:
    """Stage 3: draw spectrograms of users, micro_doppler_user01_001.png and so on, and micro_doppler_grid.png.

    Options of a section can be given without it: --guidance_scale 4, --num_steps 250, --ema 0.

    Args:
        dit_checkpoint: best.ckpt of stage 2, its run's folder, or a checkpoint of the LightningDiT release.
        output_dir: Folder of the results; a numbered one beside it if it holds pictures of other settings.
        vavae_path: The autoencoder that made the latents; builtin takes the codec inside the checkpoint.
        user_ids: User ids, 1-based; every user of the model by default.
        num_samples_per_user: Spectrograms of each user.
        seed: Seed that determines all spectrograms.
        generation: Guidance scale and steps.
        solver: Solver, guidance interval and average of the weights.
        compute: Device, batch size and precision.
    """
    from jitflow.apps.microdoppler.generate import GRID_NAME, generate

    folder = generate(
        dit_checkpoint,
        output_dir,
        vavae_path=vavae_path,
        user_ids=user_ids,
        num_samples_per_user=num_samples_per_user,
        seed=seed,
        solver=solver.solver,
        interval=parse_interval(solver.interval) if solver.interval is not None else None,
        ema=solver.ema,
        **dataclasses.asdict(generation),
        **dataclasses.asdict(compute),
    )
    log.info("pictures in %s; look at %s", folder, folder / GRID_NAME)


def evaluate(
    data_dir: str,
    generated_dir: str,
    out: str = "outputs/microdoppler_evaluation",
    seed: int = 0,
    real: RealDataOptions = RealDataOptions(),  # noqa: B008 (frozen)
) -> None:
    """Evaluate generated spectrograms against real ones: identity, gait, diversity and copies.

    Args:
        data_dir: Real pictures, as for stage 1.
        generated_dir: Spectrograms of stage 3, of every user.
        out: Folder of evaluation.json, real_and_generated.png and confusion.png; a numbered one beside it if it holds
            an evaluation already.
        seed: Seed of the classifiers.
        real: Split and settings of the real pictures.
    """
    from jitflow.apps.microdoppler.judge import REPORT_NAME
    from jitflow.apps.microdoppler.judge import evaluate as judge
    from jitflow.io.results_folder import free_folder

    folder = free_folder(out, lambda taken: (taken / REPORT_NAME).exists())
    judge(data_dir, generated_dir, str(folder), seed, **dataclasses.asdict(real))


def run(
    data_dir: str,
    output_dir: str,
    vavae_path: str = "builtin",
    batch_size: int = 32,
    max_epochs: int = 100,
    lr: float | None = None,
    devices: int = 1,
    generate_user_ids: list[int] | None = None,
    num_samples_per_user: int = 4,
    seed: int = 42,
    extraction: ExtractionOptions = ExtractionOptions(),  # noqa: B008 (frozen)
    training: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
    generation: GenerationOptions = GenerationOptions(),  # noqa: B008 (frozen)
    stages: StageOptions = StageOptions(),  # noqa: B008 (frozen)
) -> None:
    """Run all three stages, skip finished ones, and stop at the first failure.

    Options of a section can be given without it: --skip_extraction, --guidance_scale 4.

    Args:
        data_dir: Pictures of users, see stage 1.
        output_dir: Folder for latent_features/, trained_models/ and generated_images/.
        vavae_path: A VA-VAE such as vavae-imagenet256-f16d32-dinov2.pt, or the folder of a diffusers
            AutoencoderKL; builtin fits principal components instead.
        batch_size: Pictures or latents at a time.
        max_epochs: Length of the training.
        lr: Peak learning rate; by default the one for the network, 1e-4 for LightningDiT-XL/1.
        devices: GPUs, or processes on the CPU, of the training.
        generate_user_ids: User ids to sample, 1-based; every user of the data by default.
        num_samples_per_user: Spectrograms of each user.
        seed: Seed of all random generators.
        extraction: Settings of stage 1.
        training: Settings of stage 2.
        generation: Settings of stage 3.
        stages: Stages to skip, and the device of the others.
    """
    from jitflow.apps.microdoppler.stages import PipelineSettings, check_users, plan, run_stages

    settings = PipelineSettings(
        data_dir,
        output_dir,
        vavae_path,
        batch_size,
        max_epochs,
        lr,
        devices,
        generate_user_ids,
        num_samples_per_user,
        seed,
        stages.device,
        extraction,
        training,
        generation,
    )
    skip = stages.names()
    check_users(settings, skip)
    run_stages(plan(settings, skip))
    log.info("done: see %s", output_dir)
