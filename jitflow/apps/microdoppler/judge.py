"""Evaluation of a folder of generated spectrograms: scores against the real data, a table, and pictures."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.image_scores import evaluate_images
from jitflow.apps.microdoppler.judge_pictures import CONFUSION_NAME, IMAGES_NAME, print_report, save_pictures
from jitflow.apps.microdoppler.labelled_images import ImageSets, check_counts, read_generated, read_real
from jitflow.apps.microdoppler.physics import settings_from_mapping, truth_from_simulation
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.errors import ConfigError
from jitflow.io.files import read_json, writable_folder, write_json

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
        out: Folder of ``evaluation.json``, ``real_and_generated.png`` and ``confusion.png``.
        seed: Seed of the classifiers.
        val_fraction: Held-out share if ``data_dir`` has no ``val/``; use the value of training.
        split_seed: Seed of that split; use the value of training.
        settings: JSON file with the spectrogram settings of data that was not simulated here (fields of
            ``SpectrogramSettings``), or a ``simulation.json``.
        codec_psnr_db: Reconstruction PSNR of the generator's codec, for the report.
        num_steps: Training steps of each classifier; None derives them from the number of images.

    Returns:
        The content of ``evaluation.json``; see :func:`jitflow.apps.microdoppler.image_scores.evaluate_images`.

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
    generated = read_generated(generated_dir, found.user_ids)
    # Checked before thousands of images are read.
    check_counts("generated", generated.labels, found.user_ids)
    height, width = generated.images.shape[2:]
    sets = ImageSets(generated, *read_real(found, (height, width)), found.user_ids)
    scores = evaluate_images(
        sets, settings=axes, truth=truth, codec_psnr_db=codec_psnr_db, seed=seed, num_steps=num_steps
    )
    report = {"data_dir": str(data_dir), "generated_dir": str(generated_dir), **scores}
    write_json(folder / REPORT_NAME, report)
    save_pictures(folder, report, sets, settings=axes)
    # The result goes to standard output, the progress before it to standard error.
    console = Console(markup=False, soft_wrap=True)
    print_report(report, console)
    console.print(f"look at {folder / IMAGES_NAME} and {folder / CONFUSION_NAME}; every number: {folder / REPORT_NAME}")
    return report


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
