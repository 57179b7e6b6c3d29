"""Evaluation of a folder of generated spectrograms: scores against the real data, a table, and pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.image_scores import evaluate_images
from jitflow.apps.microdoppler.judge_pictures import (
    CONFUSION_NAME,
    IMAGES_NAME,
    PAIRS_NAME,
    print_report,
    save_pairs,
    save_pictures,
)
from jitflow.apps.microdoppler.labelled_images import ImageSets, check_counts, read_generated, read_real, read_scale
from jitflow.apps.microdoppler.leakage import describe_leakage, find_leakage, log_leakage
from jitflow.apps.microdoppler.physics import settings_from_mapping, truth_from_simulation
from jitflow.apps.microdoppler.random_split import random_split_accuracy, warn_of_random_split
from jitflow.apps.microdoppler.sampling import UserSamples
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.errors import ConfigError
from jitflow.evaluation.protocol import sampling_card
from jitflow.evaluation.report import build_report
from jitflow.io.files import read_json, user_path, writable_folder, write_json
from jitflow.training.samples import Samples
from jitflow.training.trained_on import read_spaces

REPORT_NAME = "evaluation.json"
_SIMULATION_NAME = "simulation.json"


def evaluate(
    data_dir: str,
    generated_dir: str,
    out: str = "outputs/microdoppler_evaluation",
    seed: int = 0,
    val_fraction: float | None = None,
    *,
    split_seed: int = 42,
    settings: str | None = None,
    codec_psnr_db: float | None = None,
    num_steps: int | None = None,
) -> dict[str, Any]:
    """Score a folder of generated images against the real data.

    Real images are resized to the size of the generated ones, as for training. ``simulation.json`` in ``data_dir``, if
    it exists, gives the axes of the images and the gait of the users.

    Args:
        data_dir: Real images in one of the layouts of :func:`jitflow.apps.microdoppler.user_images.find_user_images`.
        generated_dir: Generated images, ``micro_doppler_user01_001.png`` and so on, of every user in ``data_dir``.
        out: Folder of ``evaluation.json``, ``real_and_generated.png``, ``confusion.png`` and ``nearest_pairs.png``.
        seed: Seed of the classifiers.
        val_fraction: Held-out share if ``data_dir`` has no ``val/``; use the value of training.
        split_seed: Seed of that split; use the value of training.
        settings: JSON file with the spectrogram settings of data that was not simulated here (fields of
            ``SpectrogramSettings``), or a ``simulation.json``.
        codec_psnr_db: Reconstruction PSNR of the generator's codec, for the report.
        num_steps: Training steps of each classifier; None derives them from the number of images.

    Returns:
        The content of ``evaluation.json``: the scores of
        :func:`jitflow.apps.microdoppler.image_scores.evaluate_images`, and what all reports have in common
        (:func:`jitflow.evaluation.report.build_report`).

    Raises:
        MissingFileError: If a folder or file does not exist.
        ConfigError: If an argument is invalid.
        DataError: If images are missing, too few, damaged or of different sizes.
    """
    folder = writable_folder(out)
    found = find_user_images(data_dir, val_fraction=val_fraction, seed=split_seed)
    simulation = read_json(found.root / _SIMULATION_NAME) if (found.root / _SIMULATION_NAME).is_file() else None
    axes = _settings(settings, simulation)
    truth = truth_from_simulation(simulation, found.user_ids) if simulation is not None and axes is not None else None
    scale = read_scale(generated_dir)
    generated = read_generated(generated_dir, found.user_ids, scale)
    # Checked before thousands of images are read.
    check_counts("generated", generated.labels, found.user_ids)
    leakage = find_leakage(found)
    height, width = generated.images.shape[2:]
    sets = ImageSets(generated, *read_real(found, (height, width), scale), found.user_ids)
    training: dict[str, Any] = {"seed": seed, "num_steps": num_steps}
    span_db = None if scale is None else scale.range_db[1] - scale.range_db[0]
    judged = evaluate_images(sets, settings=axes, truth=truth, codec_psnr_db=codec_psnr_db, span_db=span_db, **training)
    # A random split is compared with one that keeps sessions apart.
    is_apart = bool(found.group) and not describe_leakage(leakage)[0]
    card, trained_on = card_of_folder(generated_dir)
    card |= {"judge_seed": seed, "judge_steps": num_steps, "reference": _record_of(data_dir, sets)}
    report = {
        "data_dir": str(data_dir),
        "generated_dir": str(generated_dir),
        **judged.scores,
        "leakage": leakage,
        "random_split_accuracy": random_split_accuracy(sets, **training) if is_apart else None,
        **build_report(judged.sheet, card, trained_on),
    }
    write_json(folder / REPORT_NAME, report)
    save_pictures(folder, report, sets, settings=axes or (None if scale is None else scale.axes.of_figure()))
    save_pairs(folder, sets, judged)
    # The result goes to standard output, the progress before it to standard error.
    console = Console(markup=False, soft_wrap=True)
    print_report(report, console)
    log_leakage(leakage)
    warn_of_random_split(report)
    pictures = ", ".join(str(folder / name) for name in (IMAGES_NAME, CONFUSION_NAME, PAIRS_NAME))
    console.print(f"look at {pictures}; every number: {folder / REPORT_NAME}")
    return report


def card_of_folder(folder: str | Path) -> tuple[dict[str, Any], list[str]]:
    """Return the protocol card of a folder of generated images, and the spaces that their model was trained on.

    Args:
        folder: The folder; one without a record of stage 3 or of ``jitflow sample`` has a card of unknowns.
    """
    names = (UserSamples.record_name, Samples.record_name)
    path = next((path for name in names if (path := user_path(folder) / name).is_file()), None)
    record = read_json(path) if path is not None else {}
    settings = record.get("settings", record) if isinstance(record, dict) else {}
    images = record.get("images", []) if isinstance(record, dict) else []
    checkpoint = settings.get("checkpoint")
    known = checkpoint if checkpoint and Path(checkpoint).is_file() else None
    seeds = [image.get("seed") for image in images if isinstance(image, dict)]
    card = sampling_card(settings, known) | {
        "checkpoint": checkpoint,
        "num_images": len(seeds) or None,
        "seeds_sha256": hashlib.sha256(json.dumps(seeds).encode()).hexdigest() if seeds else None,
    }
    return card, list(read_spaces(settings))


def _record_of(data_dir: str, sets: ImageSets) -> dict[str, Any]:
    """Return the origin of the real images, for the protocol card."""
    digest = hashlib.sha256()
    for images, labels in (sets.real_train, sets.real_val):
        for part in (images, labels):
            digest.update(part.contiguous().numpy().tobytes())
    counts = {"num_train": len(sets.real_train.images), "num_val": len(sets.real_val.images)}
    return {"path": str(data_dir), **counts, "pixels_sha256": digest.hexdigest()}


def _settings(path: str | None, simulation: Any) -> SpectrogramSettings | None:
    """Return the spectrogram settings of a file, else of the simulation, else None."""
    values = read_json(path) if path is not None else simulation
    if path is None and simulation is None:
        return None
    if not isinstance(values, dict):
        raise ConfigError(f"{path or _SIMULATION_NAME} must hold an object with spectrogram settings")
    try:
        return settings_from_mapping(values)
    except ConfigError as error:
        raise ConfigError(f"{path or _SIMULATION_NAME}: {error}") from None
