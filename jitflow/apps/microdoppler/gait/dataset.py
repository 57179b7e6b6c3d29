"""Simulate data sets of walkers: folders of spectrogram images, and a file with the truth of each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jitflow.apps.microdoppler.gait.campaign import Campaign, Trial
from jitflow.apps.microdoppler.gait.campaign_manifest import write_manifest
from jitflow.apps.microdoppler.gait.checks import check_count
from jitflow.apps.microdoppler.gait.dataset_record import FileFormat, Layout, dataset_parameters
from jitflow.apps.microdoppler.gait.echo import Radar
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, spectrogram_db, spectrogram_image
from jitflow.apps.microdoppler.gait.plan import PlannedSample, plan_samples
from jitflow.apps.microdoppler.gait.population import Variation, draw_walkers
from jitflow.errors import ConfigError, MissingFileError
from jitflow.io.files import atomic_path, read_json, write_json
from jitflow.io.folder_lock import locked
from jitflow.io.parallel import map_processes
from jitflow.pictures import save_image

TRUTH_NAME = "simulation.json"
# The last 12 bytes of every complete PNG file: an empty IEND chunk with its checksum.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# The last 22 bytes of every complete ZIP file without a comment begin so.
_ZIP_END, _ZIP_END_BYTES = b"PK\5\6", 22
# Images in a chunk of work.
_CHUNK_IMAGES = 8

_Task = tuple[str, Trial]


def write_dataset(
    folder: str | Path,
    *,
    num_users: int,
    images_per_user: int,
    val_fraction: float = 0.2,
    seed: int = 0,
    radar: Radar | None = None,
    settings: SpectrogramSettings | None = None,
    variation: Variation | None = None,
    min_cadence_gap: float = 0.0,
    layout: Layout = "class_folders",
    file_format: FileFormat = "png",
    campaign: Campaign | None = None,
    num_processes: int = 1,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulate a data set of spectrograms, or finish an interrupted one.

    ``folder/simulation.json`` is written first, with all parameters, users and true values; then
    ``train/ID_1/ID_1_0001.png`` and so on (``layout="flat"``: ``train/user_01_sample_001.png``),
    each atomically. Existing complete images are kept, so that the same call resumes an interrupted set; two calls must
    not write to the folder at once. An image depends on the seed, its user and its number alone (with
    ``min_cadence_gap`` also on the number of users), not on order or processes.

    Args:
        folder: Target folder; created if missing.
        num_users: Number of people, numbered from 1.
        images_per_user: Images of each user, training and validation together.
        val_fraction: Share of each user's images in ``val/``, in [0, 1), at least one image if not 0.
        seed: Seed of everything.
        radar: The radar; None takes 24 GHz.
        settings: Window, hop, axes and colours of the images; None takes defaults for the radar, with velocities from
            -3 to 9 m/s for people who approach, -9 to 3 for those who walk away, -6.2 to 6.2 for both.
        variation: Variation of people and walks; None takes the default.
        min_cadence_gap: Minimum relative difference between the users' step frequencies: 0.1 is 10 %.
        layout: ``"class_folders"`` or ``"flat"``.
        file_format: ``"png"`` for coloured pictures, or ``"npz"`` for arrays in dB with their axes (see
            :func:`~jitflow.apps.microdoppler.gait.picture.spectrogram_db`), of the size of the transform.
        campaign: Sessions and activities of each user, in which the images are divided evenly; None for walks without
            sessions. ``val_fraction`` then holds out whole sessions, files are
            ``train/ID_1/ID_1_session1_walk_001.png`` and so on, and ``manifest.csv`` lists them with session, activity,
            aspect, speed and carrier.
        num_processes: Number of processes.
        on_image: Called with (images done, total images) at the start and after images, in this process.

    Returns:
        The content of ``simulation.json``.

    Raises:
        ConfigError: If an argument is invalid, or the folder holds a set with other parameters.
    """
    folder = Path(folder)
    truth = dataset_parameters(
        num_users=num_users,
        images_per_user=images_per_user,
        val_fraction=val_fraction,
        seed=seed,
        radar=radar,
        settings=settings,
        variation=variation,
        min_cadence_gap=min_cadence_gap,
        layout=layout,
        file_format=file_format,
        campaign=campaign,
    )
    check_count("num_processes", num_processes)
    radar = Radar(**truth["parameters"]["radar"])
    settings = SpectrogramSettings(**truth["parameters"]["settings"])
    with locked(folder):
        _check_same_set(folder, truth)
        write_json(folder / TRUTH_NAME, truth)
        _remove_half_written(folder)

        walkers = draw_walkers(num_users, seed, variation=variation, min_cadence_gap=min_cadence_gap)
        total = len(truth["samples"])
        planned = plan_samples(
            walkers, images_per_user, val_fraction, seed, variation or Variation(), campaign, settings.duration_sec
        )
        tasks = _missing_samples(folder, truth["samples"], planned)
        done = total - len(tasks)
        if on_image:
            on_image(done, total)
        chunks = [tasks[i : i + _CHUNK_IMAGES] for i in range(0, len(tasks), _CHUNK_IMAGES)]
        written = map_processes(
            functools.partial(_write_pictures, radar, settings),
            chunks,
            workers=max(1, min(num_processes, len(chunks))),
            on_items=lambda count: on_image(done + count, total) if on_image else None,
        )
        # Closed at once after an error, so that no process goes on.
        with contextlib.closing(written):
            for _ in written:
                pass
        if campaign is not None:
            write_manifest(folder, truth)
    return truth


def _missing_samples(folder: Path, samples: list[dict[str, Any]], planned: Iterable[PlannedSample]) -> list[_Task]:
    """Return path and trial of each sample whose file is missing or truncated."""
    files = [folder / sample["file"] for sample in samples]
    return [(str(file), plan.trial) for file, plan in zip(files, planned, strict=True) if not _is_whole(file)]


def _write_pictures(radar: Radar, settings: SpectrogramSettings, tasks: list[_Task], tick: Callable[[], None]) -> None:
    for path, trial in tasks:
        signal = trial.signal(radar, settings.num_samples(radar))
        if path.endswith(".npz"):
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **spectrogram_db(signal, radar, settings))
        else:
            save_image(Image.fromarray(spectrogram_image(signal, radar, settings)), path)
        tick()


def _check_same_set(folder: Path, truth: dict[str, Any]) -> None:
    """Raise ConfigError if the folder holds another data set."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    try:
        recorded = read_json(folder / TRUTH_NAME)
    except MissingFileError:
        unknown_folders = [split for split in ("train", "val") if (folder / split).exists()]
        if unknown_folders:
            raise ConfigError(
                f"{folder} has {' and '.join(unknown_folders)} but no {TRUTH_NAME}: not a simulated set; "
                "name another folder"
            ) from None
        return
    old = recorded.get("parameters", {}) if isinstance(recorded, dict) else {}
    new = truth["parameters"]
    differing = [name for name in new if old.get(name) != new[name]]
    if differing:
        raise ConfigError(
            f"{folder} holds a simulated set with other parameters ({', '.join(differing)}); name another folder"
        )


def _remove_half_written(folder: Path) -> None:
    """Remove temporary files of an interrupted run, which would otherwise be read as images."""
    for split in ("train", "val"):
        for suffix in ("png", "npz"):
            for path in (folder / split).rglob(f".*.{suffix}.*.{suffix}"):
                path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if path.suffix == ".npz":
            file.seek(-_ZIP_END_BYTES, 2)
            return file.read().startswith(_ZIP_END)
        file.seek(-len(_PNG_END), 2)
        return file.read() == _PNG_END
    return False
