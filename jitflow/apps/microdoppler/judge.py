"""Are generated spectrograms any good? Their users, their gait, their variety, against real ones."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from jitflow.apps.microdoppler.diversity import copy_scores, diversity_per_user, pixel_vectors
from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.identity import check_labels, confusion_matrix, train_classifier, tstr_trtr
from jitflow.apps.microdoppler.judge_pictures import CONFUSION_NAME, IMAGES_NAME, print_report, save_pictures
from jitflow.apps.microdoppler.physics import (
    GaitReadings,
    GaitTruth,
    read_gait,
    settings_from_mapping,
    share_within,
    truth_from_readings,
    truth_from_simulation,
)
from jitflow.apps.microdoppler.user_images import EXTENSIONS, UserImage, UserImages, find_user_images, read_user_image
from jitflow.data.image_file import open_image
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.files import read_json, writable_folder, write_json
from jitflow.io.progress import meter

__all__ = ["CONFUSION_NAME", "IMAGES_NAME", "REPORT_NAME", "evaluate", "evaluate_images", "read_generated"]

REPORT_NAME = "evaluation.json"
_SIMULATION_NAME = "simulation.json"
_GENERATED_NAME = re.compile(r".*user(\d+)_(\d+)")
_TOLERANCE = 0.05
# Distances between images need two of each user.
_LEAST_PER_USER = 2
_NO_SETTINGS = (
    "the axes and colours of the images are unknown (no simulation.json beside the data); "
    "give their spectrogram settings to have step frequency and torso velocity read"
)


def evaluate_images(
    generated: Tensor,
    generated_labels: Tensor,
    real_train: Tensor,
    train_labels: Tensor,
    real_val: Tensor,
    val_labels: Tensor,
    *,
    user_ids: Sequence[int],
    settings: SpectrogramSettings | None = None,
    truth: GaitTruth | None = None,
    codec_psnr_db: float | None = None,
    seed: int = 0,
    num_steps: int | None = None,
) -> dict[str, Any]:
    """Measure generated images of users against real ones.

    - Identity: a classifier trained on all real training images names the users of the generated images and, as the
      ceiling, of the real held-out ones.
    - Transfer: classifiers trained on generated images (``tstr``) and on as many real ones (``trtr``), both tested on
      the real held-out images.
    - Physics: share of images whose step frequency and torso speed, read from the picture, lie within 5 % of the
      user's; the same share of the real held-out images beside it, which is not 1, since walks vary.
    - Diversity: mean distance between images of a user over that of real held-out images, in the classifier's features
      and in pixels averaged to 64 x 64; 1 is as varied as real ones, 0 the same image every time.
    - Copies: share of generated images nearer to a training image than 99 % of the real held-out ones are.

    Memory beyond the images is small.

    Args:
        generated: Generated images, shape ``(M, C, H, W)``, uint8; C 1 or 3; time to the right, velocity upwards.
        generated_labels: Users they were made for, shape ``(M,)``, whole numbers in ``[0, K)``.
        real_train: The images that the generator was trained on, shape ``(N, C, H, W)``, uint8.
        train_labels: Their users.
        real_val: Real images that it was not trained on.
        val_labels: Their users.
        user_ids: What the K users are called, in the order of their labels.
        settings: Axes, range and colours of the images; None leaves the physics out, and says so.
        truth: How users walk; None takes the medians read from ``real_train``.
        codec_psnr_db: How well the codec of the generator gives images back, for the report; not measured here.
        seed: Seed of the classifiers.
        num_steps: Steps of each of the three trainings; None suits the number of images.

    Returns:
        Plain values, ready for JSON: scores by name (``..._real`` is what real held-out images reach), None where
        something was not or cannot be measured; ``users``, one dictionary for each; ``confusion`` and
        ``confusion_real``, counts by true and named user; ``predicted``, the label seen in each generated image.

    Raises:
        ConfigError: If shapes, sizes or labels do not fit together.
        DataError: If a user has fewer than 2 images in one of the three sets.
    """
    sets = {
        "generated": (generated, generated_labels),
        "real training": (real_train, train_labels),
        "real held-out": (real_val, val_labels),
    }
    _check_sets(sets, user_ids)
    if truth is not None and len(truth.step_frequency_hz) != len(user_ids):
        raise ConfigError(f"truth is about {len(truth.step_frequency_hz)} users, but there are {len(user_ids)}")
    num_users = len(user_ids)
    labels = {"generated": generated_labels, "real": val_labels}

    with meter("training classifiers", 3, unit="classifiers") as progress:
        judge = train_classifier(
            real_train,
            train_labels,
            num_users,
            seed=seed,
            num_steps=num_steps,
            on_progress=lambda done, total: progress.update(done / total),
        )
        transfer = tstr_trtr(
            generated,
            generated_labels,
            real_train,
            train_labels,
            real_val,
            val_labels,
            num_users,
            seed=seed,
            num_steps=num_steps,
            on_progress=lambda done, total: progress.update(1 + 2 * done / total),
        )
    predicted = {"generated": judge.predict(generated), "real": judge.predict(real_val)}
    right = {which: (predicted[which] == labels[which]).double() for which in labels}

    pixels = {"generated": pixel_vectors(generated), "real": pixel_vectors(real_val)}
    features = {"generated": judge.features(generated), "real": judge.features(real_val)}
    diversity = {
        space: {which: diversity_per_user(vectors[which], labels[which], num_users) for which in labels}
        for space, vectors in (("pixels", pixels), ("features", features))
    }
    copies = copy_scores(pixels["generated"], pixels["real"], pixel_vectors(real_train))

    report: dict[str, Any] = {
        "num_generated": len(generated),
        "num_real_train": len(real_train),
        "num_real_val": len(real_val),
        "num_users": num_users,
        "seed": seed,
        "codec_psnr_db": codec_psnr_db,
        "identity_accuracy": float(right["generated"].mean()),
        "identity_accuracy_real": float(right["real"].mean()),
        "tstr_accuracy": transfer.tstr,
        "trtr_accuracy": transfer.trtr,
        "transfer_train_images": transfer.num_train,
    }
    users: list[dict[str, Any]] = [{"user_id": int(user_id)} for user_id in user_ids]
    for which, suffix in (("generated", ""), ("real", "_real")):
        _per_user(users, f"num_{which if which == 'generated' else 'real_val'}", labels[which], None)
        _per_user(users, f"identity_accuracy{suffix}", labels[which], right[which])
    report |= _physics(sets, users, settings, truth)
    for space, means in diversity.items():
        ratios = _ratio(means["generated"], means["real"])
        report[f"diversity_{space}"] = float(means["generated"].mean())
        report[f"diversity_{space}_real"] = float(means["real"].mean())
        report[f"diversity_{space}_ratio"] = float(_ratio(means["generated"].mean(), means["real"].mean()))
        report[f"diversity_{space}_ratio_lowest"] = float(ratios.min())
        for user, ratio in zip(users, ratios.tolist(), strict=True):
            user[f"diversity_{space}_ratio"] = ratio
    report |= {
        "nearest_train_median": copies.median_generated,
        "nearest_train_median_real": copies.median_held_out,
        "nearest_train_copy_threshold": copies.threshold,
        "nearest_train_copies": copies.share_copies,
        "users": users,
        "confusion": confusion_matrix(generated_labels, predicted["generated"], num_users).tolist(),
        "confusion_real": confusion_matrix(val_labels, predicted["real"], num_users).tolist(),
        "predicted": predicted["generated"].tolist(),
    }
    plain: dict[str, Any] = _without_nan(report)
    return plain


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
    """Measure a folder of generated images against the data that the model was trained on.

    Real images are brought to the size of the generated ones, as for training. ``simulation.json`` in ``data_dir``,
    where there is one, tells the axes of the images and how users walk.

    Args:
        data_dir: Real images in one of the layouts of :func:`jitflow.apps.microdoppler.user_images.find_user_images`.
        generated_dir: Generated images, ``micro_doppler_user01_001.png`` and so on, of every user in ``data_dir``.
        out: Folder of ``evaluation.json``, ``real_and_generated.png`` and ``confusion.png``.
        seed: Seed of the classifiers.
        val_fraction: Share that is held out where ``data_dir`` has no ``val/``: the same as for training.
        split_seed: Seed of that split: the same as for training.
        settings: JSON file with the spectrogram settings of data that was not simulated here (fields of
            ``SpectrogramSettings``), or a ``simulation.json``.
        codec_psnr_db: How well the codec of the generator gives images back, for the report.
        num_steps: Steps of each classifier; None suits the number of images.

    Returns:
        What ``evaluation.json`` holds, see :func:`evaluate_images`.

    Raises:
        MissingFileError: If a folder or file does not exist.
        ConfigError: If an argument cannot work.
        DataError: If images are missing, too few, damaged or of different sizes.
    """
    folder = writable_folder(out)
    found = find_user_images(data_dir, val_fraction=val_fraction, seed=split_seed)
    simulation = read_json(found.root / _SIMULATION_NAME) if (found.root / _SIMULATION_NAME).is_file() else None
    axes = _settings(settings, simulation)
    truth = truth_from_simulation(simulation, found.user_ids) if simulation is not None and axes is not None else None
    generated, generated_labels = read_generated(generated_dir, found.user_ids)
    # Before thousands of images are read.
    _check_counts("generated", generated_labels, found.user_ids)
    train, val = read_real(found, (generated.shape[2], generated.shape[3]))
    report = {
        "data_dir": str(data_dir),
        "generated_dir": str(generated_dir),
        **evaluate_images(
            generated,
            generated_labels,
            *train,
            *val,
            user_ids=found.user_ids,
            settings=axes,
            truth=truth,
            codec_psnr_db=codec_psnr_db,
            seed=seed,
            num_steps=num_steps,
        ),
    }
    write_json(folder / REPORT_NAME, report)
    save_pictures(folder, report, generated, generated_labels, *val, settings=axes)
    # The result goes to standard output, the progress before it to standard error.
    console = Console(soft_wrap=True)
    print_report(report, console)
    console.print(f"look at {folder / IMAGES_NAME} and {folder / CONFUSION_NAME}; every number: {folder / REPORT_NAME}")
    return report


def _physics(
    sets: Mapping[str, tuple[Tensor, Tensor]],
    users: list[dict[str, Any]],
    settings: SpectrogramSettings | None,
    truth: GaitTruth | None,
) -> dict[str, Any]:
    """Scores of the gait, None where the settings are unknown; what concerns one user goes into ``users``."""
    names = ("step_frequency_within_5_percent", "torso_velocity_within_5_percent")
    if settings is None:
        empty: dict[str, Any] = dict.fromkeys([f"{name}{suffix}" for name in names for suffix in ("", "_real")])
        return {**empty, "truth_source": None, "physics_skipped": _NO_SETTINGS}
    chosen = ["generated", "real held-out"] + (["real training"] if truth is None else [])
    readings: dict[str, GaitReadings] = {}
    with meter("reading gaits", sum(len(sets[which][0]) for which in chosen)) as progress:
        before = 0
        for which in chosen:
            images = sets[which][0]

            def on_progress(done: int, total: int, before: int = before) -> None:
                progress.update(before + done)

            readings[which] = read_gait(images, settings, on_progress=on_progress)
            before += len(images)
    if truth is None:
        truth = truth_from_readings(readings["real training"], sets["real training"][1], len(users))
    report: dict[str, Any] = {}
    for which, suffix in (("generated", ""), ("real held-out", "_real")):
        labels = sets[which][1]
        values = (readings[which].step_frequency_hz, readings[which].torso_velocity_m_s.abs())
        true = (truth.step_frequency_hz, truth.torso_velocity_m_s)
        for name, value, own in zip(names, values, true, strict=True):
            report[f"{name}{suffix}"] = share_within(value, labels, own, _TOLERANCE)
        if suffix:
            continue
        for label, user in enumerate(users):
            mine = labels == label
            user["step_frequency_hz"] = float(truth.step_frequency_hz[label])
            user["torso_velocity_m_s"] = float(truth.torso_velocity_m_s[label])
            user["step_frequency_hz_generated"] = float(values[0][mine].nanmedian())
            user["torso_velocity_m_s_generated"] = float(values[1][mine].nanmedian())
            for name, value, own in zip(names, values, true, strict=True):
                user[name] = share_within(value[mine], labels[mine], own, _TOLERANCE)
    return {**report, "truth_source": truth.source, "physics_skipped": None}


def _check_sets(sets: Mapping[str, tuple[Tensor, Tensor]], user_ids: Sequence[int]) -> None:
    if len(user_ids) < 2 or len(set(user_ids)) != len(user_ids):
        raise ConfigError(f"user_ids must name at least 2 users, each once; got {list(user_ids)}")
    shapes = {}
    for which, (images, labels) in sets.items():
        if not len(images):
            raise DataError(f"there are no {which} images")
        check_labels(images, labels, len(user_ids))
        shapes[which] = tuple(images.shape[1:])
        _check_counts(which, labels, user_ids)
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{which} {shape}" for which, shape in shapes.items())
        raise ConfigError(f"all images must have the same size and channels (C, H, W); got {listed}")


def _check_counts(which: str, labels: Tensor, user_ids: Sequence[int]) -> None:
    counts = torch.bincount(labels, minlength=len(user_ids))
    few = [(user_id, int(n)) for user_id, n in zip(user_ids, counts, strict=True) if n < _LEAST_PER_USER]
    if few:
        listed = ", ".join(f"user {user_id} ({n})" for user_id, n in few[:5]) + (" ..." if len(few) > 5 else "")
        raise DataError(
            f"at least {_LEAST_PER_USER} {which} images of each user are needed; too few of {listed}. "
            f"{'Generate more' if which == 'generated' else 'Add some'}, or leave the users out of the data"
        )


def _per_user(users: list[dict[str, Any]], name: str, labels: Tensor, values: Tensor | None) -> None:
    """Write the mean of a value over each user's images, or without one their number, into ``users``."""
    for label, user in enumerate(users):
        mine = labels == label
        user[name] = int(mine.sum()) if values is None else float(values[mine].mean())


def _ratio(generated: Tensor, real: Tensor) -> Tensor:
    """Quotient; where real images do not differ at all there is none."""
    return torch.where(real > 0, generated / real, torch.nan)


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_generated(folder: str | Path, user_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read generated images, ``..._user01_001.png`` and so on; other files stay unread.

    Args:
        folder: Where they are.
        user_ids: Ids of the users, in the order of their labels.

    Returns:
        Images, shape ``(M, 3, H, W)``, uint8, by user and number; labels, shape ``(M,)``, int64.

    Raises:
        MissingFileError: If the folder does not exist.
        DataError: If there are none, one is of a user that the data lacks, is damaged, or they differ in size.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise MissingFileError(f"generated_dir {folder} is not a folder; name the one that stage 3 wrote")
    files = sorted(
        (int(match[1]), int(match[2]), path)
        for path in root.iterdir()
        if (match := _GENERATED_NAME.fullmatch(path.stem)) and path.suffix.lower() in EXTENSIONS
    )
    if not files:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:3]) or "nothing"
        raise DataError(f"{folder} has no generated images such as micro_doppler_user01_001.png; it holds {found}")
    strangers = sorted({user_id for user_id, _, _ in files} - set(user_ids))
    if strangers:
        raise DataError(
            f"{folder} has images of user {', '.join(map(str, strangers))}, of whom the data has none; "
            "name the data that the model was trained on"
        )
    images: list[Tensor] = []
    with meter("reading generated images", len(files)) as progress:
        for _, _, path in files:
            image = torch.from_numpy(np.array(open_image(str(path), channels=3))).permute(2, 0, 1)
            if images and image.shape != images[0].shape:
                raise DataError(
                    f"generated images differ in size: {path.name} is {image.shape[2]}x{image.shape[1]}, "
                    f"{files[0][2].name} {images[0].shape[2]}x{images[0].shape[1]}; keep one size in a folder"
                )
            images.append(image)
            progress.update(len(images))
    label_of = {user_id: label for label, user_id in enumerate(user_ids)}
    return torch.stack(images), torch.tensor([label_of[user_id] for user_id, _, _ in files])


def read_real(found: UserImages, size: tuple[int, int]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to train on, and those held out, at a size (height, width)."""
    with meter("reading real images", len(found.train) + len(found.val)) as progress:

        def read(images: Sequence[UserImage], before: int) -> tuple[Tensor, Tensor]:
            # Filled in place: the images of a whole set shall not be in memory twice.
            pixels = torch.empty(len(images), 3, *size, dtype=torch.uint8)
            for i, image in enumerate(images):
                pixels[i] = torch.from_numpy(read_user_image(image.path, size))
                progress.update(before + i + 1)
            return pixels, torch.tensor([image.label for image in images])

        return read(found.train, 0), read(found.val, len(found.train))


def _settings(path: str | None, simulation: Any) -> SpectrogramSettings | None:
    """Settings of a file, else those of the simulation, else None."""
    values = read_json(path) if path is not None else simulation
    if path is None and simulation is None:
        return None
    if not isinstance(values, dict):
        raise ConfigError(f"{path or _SIMULATION_NAME} must hold an object with spectrogram settings")
    try:
        return settings_from_mapping(values)
    except ConfigError as error:
        raise ConfigError(f"{path or _SIMULATION_NAME}: {error}") from None
