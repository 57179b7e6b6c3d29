"""The micro-Doppler demo: five simulated walkers, their spectrograms learned, drawn and judged on two CPU cores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from jitflow.apps.microdoppler.extract import DONE_NAME, RECONSTRUCTION_NAME, extract
from jitflow.apps.microdoppler.gait import Variation, radar_for_carrier, settings_for_radar, write_dataset
from jitflow.apps.microdoppler.generate import GRID_NAME, generate
from jitflow.apps.microdoppler.judge import IMAGES_NAME, evaluate
from jitflow.apps.microdoppler.stages import GENERATED, LATENTS, TRAINED
from jitflow.io.cores import available_cores
from jitflow.io.files import read_json, writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.run.report import REPORT_NAME, write_final_report
from jitflow.verbs.demo_folder import Laps, check_same_run, remove_run
from jitflow.verbs.microdoppler_train import train

_DATA, _EVALUATION, _METRICS, _SETTINGS = "data", "evaluation", "metrics.json", "settings.json"
_FOLDERS = (_DATA, LATENTS, TRAINED, GENERATED, _EVALUATION)
# What `metrics.json` takes over from the evaluation.
_SCORES = (
    "identity_accuracy",
    "identity_accuracy_real",
    "tstr_accuracy",
    "trtr_accuracy",
    "step_frequency_within_5_percent",
    "step_frequency_within_5_percent_real",
)
# Chosen so that a picture can be read and learned in minutes: a window of four to five steps, little noise, walkers at
# least 10 % apart in cadence, and a number of steps instead of a time, so that the result repeats.
SETTINGS: dict[str, Any] = {
    "num_users": 5,
    "images_per_user": 240,
    "val_fraction": 0.2,
    "min_cadence_gap": 0.1,
    "snr_db": (30.0, 40.0),
    "generated_per_user": 40,
    "batch_size": 32,
    "max_steps": 2000,
    "lr": 1e-3,
    "ema_decay": 0.995,
    # A token of 512 numbers in a network of width 256: see docs/microdoppler.md, "What the network predicts".
    "prediction": "data",
    "noise_scale": 6.0,
    "P_mean": -0.8,
    "P_std": 1.0,
    "model": "LightningDiT-N/4",
    "net_settings": {},
    "sampling": {"cfg_scale": 2.0, "sampling_method": "multistep", "num_sampling_steps": 30},
}
_QUICK: dict[str, Any] = {
    "images_per_user": 8,
    "val_fraction": 0.25,
    "generated_per_user": 2,
    "batch_size": 8,
    "max_steps": 4,
    "net_settings": {"hidden_size": 32, "depth": 2, "num_heads": 2},
    "sampling": {"cfg_scale": 2.0, "sampling_method": "euler", "num_sampling_steps": 2},
}


def run(
    out: Path, *, seed: int = 0, restart: bool = False, dry_run: bool = False, quick: bool = False
) -> dict[str, Any]:
    """Simulate, extract, train, draw, judge, and say how it went.

    Args:
        out: Folder of the results: ``data/``, the three stages' folders, ``evaluation/``, ``metrics.json``.
        seed: Seed of everything.
        restart: Throw away what the folder holds.
        dry_run: Say what would be done, and do nothing.
        quick: A few steps on a few pictures, for tests; nothing can be seen then.

    Returns:
        What ``metrics.json`` holds; empty after a dry run.

    Raises:
        ConfigError: If the folder holds a run with other settings.
    """
    console = Console(stderr=True)
    settings = {**SETTINGS, **(_QUICK if quick else {}), "seed": seed}
    metrics_path = out / _METRICS
    if dry_run:
        state = "report what is there" if metrics_path.exists() else "go on" if out.exists() else "start"
        console.print(f"would {'start anew' if restart else state} in {out}, seed {seed}: {json.dumps(settings)}")
        return {}
    if restart:
        remove_run(out, folders=_FOLDERS, files=(REPORT_NAME, _METRICS, _SETTINGS))
    record = out / _SETTINGS
    if record.exists():
        check_same_run(record, read_json(record), settings)
    if metrics_path.exists():
        metrics: dict[str, Any] = read_json(metrics_path)
        console.print(f"{out} is finished already; --restart starts anew.")
        _summary(out, metrics)
        return metrics
    write_json(writable_folder(out) / record.name, settings)
    laps = Laps(simulate=_simulate(out, settings, console))
    console.print("stage 1: principal components of the pictures' patches, and latents")
    extract(out / _DATA, out / LATENTS, num_processes=available_cores(), device="cpu", seed=seed)
    laps.lap("extract")
    console.print(f"stage 2: {settings['max_steps']} steps of a small LightningDiT")
    best = _train(out, settings)
    laps.lap("train")
    console.print(f"stage 3: {settings['generated_per_user']} pictures of each user")
    generate(
        best,
        out / GENERATED,
        user_ids=range(1, settings["num_users"] + 1),
        num_samples_per_user=settings["generated_per_user"],
        guidance_scale=None,
        num_steps=None,
        seed=seed,
        device="cpu",
    )
    laps.lap("sample")
    extraction = read_json(out / LATENTS / DONE_NAME)
    psnr_db = extraction["psnr"]["mean_db"]
    report = evaluate(str(out / _DATA), str(out / GENERATED), str(out / _EVALUATION), seed, codec_psnr_db=psnr_db)
    laps.lap("evaluate")
    metrics = {
        **{name: report[name] for name in _SCORES},
        "codec_psnr_db": psnr_db,
        "num_generated": report["num_generated"],
        "train_steps": settings["max_steps"],
        "seconds": laps.seconds,
        "settings": settings,
    }
    write_json(metrics_path, metrics)
    write_final_report(out)
    _summary(out, metrics)
    return metrics


def _simulate(out: Path, settings: dict[str, Any], console: Console) -> float:
    started = time.monotonic()
    num_users, each = settings["num_users"], settings["images_per_user"]
    console.print(f"simulating {num_users} people who walk towards a 24 GHz radar, {each} pictures of each")
    radar = radar_for_carrier(24e9)
    with meter("simulating", num_users * each, unit="pictures") as progress:
        write_dataset(
            out / _DATA,
            num_users=num_users,
            images_per_user=each,
            val_fraction=settings["val_fraction"],
            seed=settings["seed"],
            radar=radar,
            settings=settings_for_radar(radar),
            variation=Variation(snr_db=settings["snr_db"]),
            min_cadence_gap=settings["min_cadence_gap"],
            num_processes=available_cores(),
            on_image=lambda done, in_all: progress.update(done),
        )
    return round(time.monotonic() - started, 1)


def _train(out: Path, settings: dict[str, Any]) -> Path:
    steps_per_epoch = max(
        1, round(settings["images_per_user"] * (1 - settings["val_fraction"])) * 5 // settings["batch_size"]
    )
    epochs = -(-settings["max_steps"] // steps_per_epoch)
    return train(
        out / LATENTS,
        out / TRAINED,
        model=settings["model"],
        net_settings=settings["net_settings"],
        batch_size=settings["batch_size"],
        max_epochs=epochs,
        lr=settings["lr"],
        ema_decay=settings["ema_decay"],
        cosine_weight=0.0,
        prediction=settings["prediction"],
        noise_scale=settings["noise_scale"],
        P_mean=settings["P_mean"],
        P_std=settings["P_std"],
        precision="32-true",
        accelerator="cpu",
        seed=settings["seed"],
        sampling=settings["sampling"],
        # The last state is the best while so little is trained; a look now and then is enough.
        check_val_every_n_epoch=max(1, epochs // 4),
    )


def _summary(out: Path, metrics: dict[str, Any]) -> None:
    seconds = metrics["seconds"]
    # The result goes to standard output, the progress before it to standard error.
    Console(soft_wrap=True).print(
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
        f"draw more: jitflow microdoppler sample --dit_checkpoint {out / TRAINED / 'checkpoints' / 'best.ckpt'} "
        f"--output_dir more --user_ids 1 2 --guidance_scale 2 --num_steps 50"
    )
