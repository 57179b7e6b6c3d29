"""The demo of micro-Doppler: simulate five walkers, train on their spectrograms and evaluate samples on two cores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from jitflow.apps.microdoppler.data import DONE_NAME
from jitflow.apps.microdoppler.extract import extract
from jitflow.apps.microdoppler.extraction_folder import RECONSTRUCTION_NAME
from jitflow.apps.microdoppler.gait import Variation, radar_for_carrier, settings_for_radar, write_dataset
from jitflow.apps.microdoppler.generate import GRID_NAME, generate
from jitflow.apps.microdoppler.judge import evaluate
from jitflow.apps.microdoppler.judge_pictures import IMAGES_NAME
from jitflow.apps.microdoppler.stages import BEST_NAME, GENERATED, LATENTS, TRAINED
from jitflow.io.cores import available_cores
from jitflow.io.files import read_json
from jitflow.io.progress import meter
from jitflow.training.demo import Demo, DemoState

_DATA, _EVALUATION = "data", "evaluation"
# Scores of the evaluation that are copied to `metrics.json`.
_SCORES = (
    "identity_accuracy",
    "identity_accuracy_real",
    "tstr_accuracy",
    "trtr_accuracy",
    "step_frequency_within_5_percent",
    "step_frequency_within_5_percent_real",
)


def _simulate(state: DemoState) -> None:
    """Simulate spectrograms of walking people; finished ones are kept."""
    settings = state.settings
    num_users, each = settings["num_users"], settings["images_per_user"]
    state.console.print(f"simulating {num_users} people who walk towards a 24 GHz radar, {each} pictures of each")
    radar = radar_for_carrier(24e9)
    with meter("simulating", num_users * each, unit="pictures") as progress:
        write_dataset(
            state.out / _DATA,
            num_users=num_users,
            images_per_user=each,
            val_fraction=settings["val_fraction"],
            seed=state.seed,
            radar=radar,
            settings=settings_for_radar(radar),
            variation=Variation(snr_db=tuple(settings["snr_db"])),
            min_cadence_gap=settings["min_cadence_gap"],
            num_processes=available_cores(),
            on_image=lambda done, total: progress.update(done),
        )


def _extract(state: DemoState) -> None:
    """Run stage 1, extraction of latents, which resumes automatically."""
    state.console.print("stage 1: principal components of the pictures' patches, and latents")
    extract(state.out / _DATA, state.out / LATENTS, num_processes=available_cores(), device="cpu", seed=state.seed)
    state.console.print(f"stage 2: {state.training['trainer.max_epochs']} epochs of a small LightningDiT")


def _generate(state: DemoState) -> None:
    """Run stage 3, sampling of spectrograms, with the model's own guidance and steps."""
    settings = state.settings
    state.console.print(f"stage 3: {settings['generated_per_user']} pictures of each user")
    assert state.best is not None
    generate(
        state.best,
        state.out / GENERATED,
        user_ids=range(1, settings["num_users"] + 1),
        num_samples_per_user=settings["generated_per_user"],
        guidance_scale=None,
        num_steps=None,
        seed=state.seed,
        device="cpu",
    )


def _evaluate(state: DemoState) -> None:
    """Evaluate the generated pictures against the real ones."""
    out = state.out
    psnr_db = read_json(out / LATENTS / DONE_NAME)["psnr"]["mean_db"]
    report = evaluate(
        str(out / _DATA),
        str(out / GENERATED),
        str(out / _EVALUATION),
        state.seed,
        codec_psnr_db=psnr_db,
        num_steps=state.settings["classifier_steps"],
    )
    state.metrics.update(
        {
            **{name: report[name] for name in _SCORES},
            "codec_psnr_db": psnr_db,
            "num_generated": report["num_generated"],
            "train_steps": len(state.losses),
        }
    )


def _describe(out: Path, metrics: Mapping[str, Any]) -> None:
    seconds = metrics["seconds"]
    # The result goes to standard output, the progress before it to standard error.
    Console(markup=False, soft_wrap=True).print(
        f"a classifier of real pictures (right on {metrics['identity_accuracy_real']:.1%} of held-out ones) names the "
        f"right user in {metrics['identity_accuracy']:.1%} of {metrics['num_generated']} generated pictures\n"
        f"step frequency within 5 % of the user's own: {metrics['step_frequency_within_5_percent']:.1%} "
        f"(real pictures: {metrics['step_frequency_within_5_percent_real']:.1%})\n"
        f"trained on generated pictures a classifier is right on {metrics['tstr_accuracy']:.1%} of real ones, on as "
        f"many real ones {metrics['trtr_accuracy']:.1%}\n"
        f"the linear codec gives pictures back at {metrics['codec_psnr_db']:.1f} dB (see "
        f"{out / LATENTS / RECONSTRUCTION_NAME})\n"
        f"{metrics['train_steps']} training steps in {seconds['train']:.0f} s, everything in "
        f"{sum(seconds.values()):.0f} s\n"
        f"look at {out / GENERATED / GRID_NAME} and {out / _EVALUATION / IMAGES_NAME}\n"
        f"draw more: jitflow microdoppler sample --dit_checkpoint {out / TRAINED / 'checkpoints' / BEST_NAME} "
        f"--output_dir more --user_ids 1 2 --guidance_scale 2 --num_steps 50"
    )


# Chosen so that a picture can be read and learned in minutes: a window of four to five steps, little noise, walkers at
# least 10 % apart in cadence, and a number of steps instead of a time, so that the result repeats.
DEMO = Demo(
    summary="Simulate five walking people seen by a radar, learn their spectrograms, generate some and evaluate them.",
    recipe="microdoppler/n4_5users",
    training=TRAINED,
    overrides={
        "data.latent_dir": f"{{run_dir}}/../{LATENTS}",
        # A token of 512 numbers in a network of width 256: see docs/microdoppler.md, "What the network predicts".
        "model.prediction": "data",
        "model.noise_scale": 6.0,
        "model.P_mean": -0.8,
        "model.P_std": 1.0,
        "model.cosine_weight": 0.0,
        # 2,010 steps.
        "trainer.max_epochs": 67,
        # In such a short training the last checkpoint is the best; rare validation is enough.
        "trainer.check_val_every_n_epoch": 16,
        "trainer.devices": 1,
        "schedule.warmup_epochs": 1,
        "schedule.min_lr": 1e-4,
        "checkpoint.save_last_freq": 1,
        "checkpoint.save_milestone_freq": 10**9,
        "logging.tensorboard": "lightning_logs",
        "logging.csv": "lightning_logs",
    },
    settings={
        "num_users": 5,
        "images_per_user": 240,
        "val_fraction": 0.2,
        "min_cadence_gap": 0.1,
        "snr_db": [30.0, 40.0],
        "generated_per_user": 40,
        # As many as suit the number of pictures.
        "classifier_steps": None,
    },
    # A few steps on a few pictures; nothing is learned.
    quick={
        "model.net_settings": {"hidden_size": 32, "depth": 2, "num_heads": 2},
        "model.sampling_method": "euler",
        "model.num_sampling_steps": 2,
        "data.batch_size": 8,
        "trainer.max_epochs": 2,
        "trainer.check_val_every_n_epoch": 1,
        "settings.images_per_user": 8,
        "settings.val_fraction": 0.25,
        "settings.generated_per_user": 2,
        "settings.classifier_steps": 10,
    },
    before={"simulate": _simulate, "extract": _extract},
    after={"sample": _generate, "evaluate": _evaluate},
    describe=_describe,
    writes=(_DATA, LATENTS, GENERATED, _EVALUATION),
)
