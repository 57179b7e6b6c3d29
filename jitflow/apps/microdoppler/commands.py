"""The documented commands of micro-Doppler: the stages, the whole pipeline, and the simulator.

jsonargparse builds each command's options and help from the signature and docstring of its function.
"""

from __future__ import annotations

import dataclasses
import logging

from jitflow.apps.microdoppler.sections import (
    CampaignOptions,
    DatasetOptions,
    ExtractionOptions,
    GenerationOptions,
    NewUserOptions,
    RadarOptions,
    RealDataOptions,
    RecordingOptions,
    ReleaseOptions,
    SolverOptions,
    StageOptions,
    TrainingOptions,
    WindowOptions,
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
    campaign: CampaignOptions = CampaignOptions(),  # noqa: B008 (frozen)
    recordings: RecordingOptions = RecordingOptions(),  # noqa: B008 (frozen)
) -> None:
    """Simulate spectrograms of people in the folder layout of stage 1; see docs/gait_simulator.md.

    Run it again to finish an interrupted simulation. Options of a section can be given without it: --carrier_ghz 77.

    Args:
        output_dir: Folder for train/ID_1/..., val/ID_1/... and simulation.json; with sessions also manifest.csv.
        num_users: Number of people.
        images_per_user: Spectrograms of each person, training and validation together.
        seed: Seed of all random generators; the same people and recordings may be simulated for another carrier.
        radar: Simulated radar, walking people and spectrogram.
        dataset: Layout of the data set.
        campaign: Sessions and activities.
        recordings: Raw recordings in place of spectrograms.
    """
    if recordings.radar is not None:
        from jitflow.apps.microdoppler.recordings.verbs import simulate_recordings

        simulate_recordings(output_dir, num_users, seed, recordings, radar, dataset, campaign)
        return
    from jitflow.apps.microdoppler.gait import write_dataset
    from jitflow.apps.microdoppler.simulation_settings import simulation_settings
    from jitflow.io.cores import available_cores
    from jitflow.io.progress import meter

    with meter("simulating", num_users * images_per_user, unit="pictures") as progress:
        write_dataset(
            output_dir,
            num_users=num_users,
            images_per_user=images_per_user,
            val_fraction=dataset.val_fraction,
            seed=seed,
            min_cadence_gap=dataset.min_cadence_gap,
            layout=dataset.layout,
            file_format=dataset.files,
            num_processes=dataset.num_processes or available_cores(),
            on_image=lambda done, total: progress.update(done),
            **simulation_settings(radar, campaign),
        )
    log.info("%d pictures of %d people in %s", num_users * images_per_user, num_users, output_dir)


def spectrogram(
    raw: list[str],
    radar: str | None = None,
    windows: WindowOptions = WindowOptions(),  # noqa: B008 (frozen)
) -> None:
    """Convert raw radar recordings (.npy, DCA1000 .bin, Ancortek .dat) to spectrograms that stage 1 reads.

    Run it again to finish an interrupted conversion, or to add recordings. Options of a section can be given without
    it: --duration_sec 3, --overlap 0.5.

    Args:
        raw: Recordings, folders of them, or a manifest.csv of them (path,user,session); users are folders that end in a
            number (ID_1) or names such as user_01_rec01.bin or 1P01A01R01.dat.
        radar: A preset (ancortek, doppler_24ghz, iwr1443, iwr1642) or a YAML file; by default radar.yaml beside the
            recordings.
        windows: Windows that recordings are cut into, and their folder.
    """
    from jitflow.apps.microdoppler.recordings.verbs import convert

    convert(raw, radar, windows)


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
        **{name: getattr(solver, name) for name in ("conditions", "guide_by")},
    )
    log.info("pictures in %s; look at %s", folder, folder / GRID_NAME)


def add_user(user: NewUserOptions) -> None:
    """Add a user to a trained model from a few spectrograms; the other users stay exactly as they are.

    Learns one row of the user table, writes the larger model, draws some spectrograms of the new user, and reports how
    many of them are copies of the given ones. Options can be given without their section: --model runs/campaign.

    Args:
        user: Model, spectrograms and settings.
    """
    from jitflow.apps.microdoppler.add_user import add_new_user

    add_new_user(user)


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
