"""A data set of simulated walkers: folders of pictures, and a file that says what is true of each."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.apps.microdoppler.gait.checks import check_count
from jitflow.apps.microdoppler.gait.echo import Radar, Walk
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, settings_for_radar, simulate_image
from jitflow.apps.microdoppler.gait.population import Variation, draw_walk, draw_walkers
from jitflow.apps.microdoppler.gait.truth import torso_velocity_m_s, true_step_frequency_hz, walking_speed_m_s
from jitflow.errors import ConfigError, MissingFileError
from jitflow.io.files import read_json, write_json
from jitflow.pictures import save_image

Layout = Literal["class_folders", "flat"]
TRUTH_NAME = "simulation.json"
# Raised when the same parameters would give other pictures.
_VERSION = 1
# The last 12 bytes of every whole PNG file: an empty IEND chunk with its checksum.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# Pictures handed to a process at once, and how many such portions wait for each process.
_PORTION, _WAITING = 8, 2

_Task = tuple[str, Walker, Walk]


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
    num_processes: int = 1,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulate a data set, or finish one that was interrupted.

    ``folder/simulation.json`` is written first and holds all parameters, users and truths; then come
    ``train/ID_1/ID_1_0001.png`` and so on (``layout="flat"``: ``train/user_01_sample_001.png``), whole files or
    none. Whole pictures that are there already stay, which makes the same call finish an interrupted set; the
    folder must not be written to by two calls at once. A picture depends on the seed, its user and its number
    alone (with ``min_cadence_gap`` also on the number of users), not on order or processes.

    Args:
        folder: Where; made if missing.
        num_users: People, numbered from 1.
        images_per_user: Pictures of each, training and validation together.
        val_fraction: Share of each user's pictures under ``val/``, in [0, 1), at least one picture if not 0.
        seed: Seed of everything.
        radar: The radar; None is 24 GHz.
        settings: Window, hop, axes and colours of the pictures; None is what suits the radar, with velocities from
            -3 to 9 m/s for people who walk up, -9 to 3 for away, -6.2 to 6.2 for both.
        variation: How much people and walks differ; None is the default.
        min_cadence_gap: Least difference between the users' step frequencies: 0.1 is 10 %.
        layout: ``"class_folders"`` or ``"flat"``.
        num_processes: Processes that simulate.
        on_image: Called with (pictures done, all pictures) at the start and after pictures, in this process.

    Returns:
        What ``simulation.json`` holds.

    Raises:
        ConfigError: If an argument cannot work, or the folder holds a set with other parameters.
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
    )
    check_count("num_processes", num_processes)
    radar = Radar(**truth["parameters"]["radar"])
    settings = SpectrogramSettings(**truth["parameters"]["settings"])
    _check_same_set(folder, truth)
    write_json(folder / TRUTH_NAME, truth)
    _remove_half_written(folder)

    walkers = draw_walkers(num_users, seed, variation=variation, min_cadence_gap=min_cadence_gap)
    total = len(truth["samples"])
    tasks = [
        (
            str(folder / sample["file"]),
            walkers[sample["user_id"] - 1],
            draw_walk(seed, sample["user_id"] - 1, sample["sample"] - 1, variation=variation),
        )
        for sample in truth["samples"]
        if not _is_whole_png(folder / sample["file"])
    ]
    done = total - len(tasks)
    if on_image:
        on_image(done, total)
    for finished in _run(tasks, radar, settings, num_processes):
        for _ in range(finished):
            done += 1
            if on_image:
                on_image(done, total)
    return truth


def dataset_parameters(
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
) -> dict[str, Any]:
    """What ``simulation.json`` would hold: every parameter, user and walk, without simulating anything.

    Args:
        num_users: As of :func:`write_dataset`; so are the others.
        images_per_user: Pictures of each user.
        val_fraction: Share under ``val/``.
        seed: Seed of everything.
        radar: The radar.
        settings: Window, hop, axes and colours.
        variation: How much people and walks differ.
        min_cadence_gap: Least difference between step frequencies.
        layout: Names of folders and files.

    Returns:
        ``parameters``, ``users`` (body, habits, ``step_frequency_hz``, ``speed_m_s``) and ``samples`` (``file``,
        ``split``, ``user_id`` and ``sample`` from 1, the walk, ``step_frequency_hz``, ``speed_m_s``,
        ``torso_velocity_m_s``).

    Raises:
        ConfigError: If an argument cannot work.
    """
    check_count("num_users", num_users)
    check_count("images_per_user", images_per_user)
    num_val = _num_val(images_per_user, val_fraction)
    if layout not in ("class_folders", "flat"):
        raise ConfigError(f"layout must be 'class_folders' or 'flat'; got {layout!r}")
    radar = radar or Radar()
    variation = variation or Variation()
    settings = settings or _default_settings(radar, variation)
    _check_axis(radar, settings, variation)
    walkers = draw_walkers(num_users, seed, variation=variation, min_cadence_gap=min_cadence_gap)

    users, samples = [], []
    for user, walker in enumerate(walkers):
        users.append(
            {
                "user_id": user + 1,
                "step_frequency_hz": true_step_frequency_hz(walker),
                "speed_m_s": walking_speed_m_s(walker),
                **_plain(walker),
            }
        )
        for sample in range(images_per_user):
            walk = draw_walk(seed, user, sample, variation=variation)
            split = "train" if sample < images_per_user - num_val else "val"
            samples.append(
                {
                    "file": _file_name(layout, split, user + 1, sample + 1),
                    "split": split,
                    "user_id": user + 1,
                    "sample": sample + 1,
                    "step_frequency_hz": true_step_frequency_hz(walker, walk),
                    "speed_m_s": walking_speed_m_s(walker, walk),
                    "torso_velocity_m_s": torso_velocity_m_s(walker, walk),
                    **_plain(walk),
                }
            )
    parameters = {
        "version": _VERSION,
        "num_users": num_users,
        "images_per_user": images_per_user,
        "val_fraction": val_fraction,
        "seed": seed,
        "min_cadence_gap": min_cadence_gap,
        "layout": layout,
        "radar": _plain(radar),
        "settings": _plain(settings),
        "variation": _plain(variation),
    }
    return {"parameters": parameters, "users": users, "samples": samples}


def _run(tasks: list[_Task], radar: Radar, settings: SpectrogramSettings, num_processes: int) -> Iterator[int]:
    """Simulate the tasks, yielding how many pictures have just been finished."""
    portions = [tasks[i : i + _PORTION] for i in range(0, len(tasks), _PORTION)]
    if num_processes == 1 or len(portions) < 2:
        for task in tasks:
            yield _write_pictures([task], radar, settings)
        return
    # Spawned: a fork of a process with threads, as torch's are, can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(portions)), mp_context=context) as pool:
        waiting: set[Future[int]] = set()
        try:
            for portion in portions:
                waiting.add(pool.submit(_write_pictures, portion, radar, settings))
                if len(waiting) >= _WAITING * num_processes:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield sum(future.result() for future in finished)
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield sum(future.result() for future in finished)
        finally:
            for future in waiting:
                future.cancel()


def _write_pictures(tasks: list[_Task], radar: Radar, settings: SpectrogramSettings) -> int:
    for path, walker, walk in tasks:
        save_image(Image.fromarray(simulate_image(walker, walk, radar, settings)), path)
    return len(tasks)


def _num_val(images_per_user: int, val_fraction: float) -> int:
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must lie in [0, 1); got {val_fraction}")
    num = max(1, round(images_per_user * val_fraction)) if val_fraction else 0
    if num >= images_per_user:
        raise ConfigError(
            f"images_per_user {images_per_user} leaves none for training with val_fraction {val_fraction}; raise it"
        )
    return num


def _default_settings(radar: Radar, variation: Variation) -> SpectrogramSettings:
    """What suits the radar, with a velocity axis for the walking direction."""
    settings = settings_for_radar(radar)
    if variation.direction == "toward":
        return settings
    limits = (-9.0, 3.0) if variation.direction == "away" else (-6.2, 6.2)
    return dataclasses.replace(settings, velocity_min_m_s=limits[0], velocity_max_m_s=limits[1])


def _check_axis(radar: Radar, settings: SpectrogramSettings, variation: Variation) -> None:
    """Find settings that cannot be drawn before anything is written."""
    if settings.velocity_span_m_s > radar.velocity_span_m_s * 1.001:
        raise ConfigError(
            f"the velocity axis spans {settings.velocity_span_m_s:g} m/s but the radar tells only "
            f"{radar.velocity_span_m_s:.4g} m/s apart; raise prf_hz or narrow the axis"
        )
    size = settings.window_size(radar)
    if settings.fft_size is not None and settings.fft_size < size:
        raise ConfigError(f"fft_size {settings.fft_size} is below the {size} samples of the window; raise it")
    # The torso itself has to be on the picture, in whichever direction people walk.
    if variation.direction != "toward" and settings.velocity_min_m_s > -3.5:
        raise ConfigError(
            f"people who walk away need velocity_min_m_s below -3.5 on the axis; got {settings.velocity_min_m_s:g}"
        )
    if variation.direction != "away" and settings.velocity_max_m_s < 3.5:
        raise ConfigError(
            f"people who walk up need velocity_max_m_s above 3.5 on the axis; got {settings.velocity_max_m_s:g}"
        )


def _check_same_set(folder: Path, truth: dict[str, Any]) -> None:
    """Refuse to mix two sets in one folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    try:
        there = read_json(folder / TRUTH_NAME)
    except MissingFileError:
        strangers = [split for split in ("train", "val") if (folder / split).exists()]
        if strangers:
            raise ConfigError(
                f"{folder} has {' and '.join(strangers)} but no {TRUTH_NAME}: not a simulated set; name another folder"
            ) from None
        return
    old = there.get("parameters", {}) if isinstance(there, dict) else {}
    new = truth["parameters"]
    differing = [name for name in new if old.get(name) != new[name]]
    if differing:
        raise ConfigError(
            f"{folder} holds a simulated set with other parameters ({', '.join(differing)}); name another folder"
        )


def _remove_half_written(folder: Path) -> None:
    """Remove the temporary files of a killed call; folder readers would take them for pictures."""
    for split in ("train", "val"):
        for path in (folder / split).rglob(".*.png.*.png"):
            path.unlink(missing_ok=True)


def _is_whole_png(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(-len(_PNG_END), 2)
        return file.read() == _PNG_END
    return False


def _file_name(layout: Layout, split: str, user_id: int, sample: int) -> str:
    if layout == "flat":
        return f"{split}/user_{user_id:02d}_sample_{sample:03d}.png"
    return f"{split}/ID_{user_id}/ID_{user_id}_{sample:04d}.png"


def _plain(value: Any) -> dict[str, Any]:
    """Fields of a data class as JSON gives them back: lists for tuples, None for no noise."""
    fields = dataclasses.asdict(value)
    plain = {name: list(item) if isinstance(item, tuple) else item for name, item in fields.items()}
    return {name: None if isinstance(item, float) and math.isinf(item) else item for name, item in plain.items()}
