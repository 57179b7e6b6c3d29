"""Data set of simulated walkers: spectrograms of each, written by one process or several, and their record."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from PIL import Image

from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.apps.microdoppler.gait.checks import check_count
from jitflow.apps.microdoppler.gait.dataset_record import Layout, dataset_parameters
from jitflow.apps.microdoppler.gait.echo import Radar, Walk
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, simulate_image
from jitflow.apps.microdoppler.gait.population import Variation, draw_walk, draw_walkers
from jitflow.errors import ConfigError, MissingFileError
from jitflow.io.files import read_json, write_json
from jitflow.pictures import save_image

TRUTH_NAME = "simulation.json"
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
        The content of ``simulation.json``.

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


def _check_same_set(folder: Path, truth: dict[str, Any]) -> None:
    """Refuse to mix two sets in one folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    try:
        record = read_json(folder / TRUTH_NAME)
    except MissingFileError:
        unrecorded = [split for split in ("train", "val") if (folder / split).exists()]
        if unrecorded:
            raise ConfigError(
                f"{folder} has {' and '.join(unrecorded)} but no {TRUTH_NAME}: not a simulated set; name another folder"
            ) from None
        return
    old = record.get("parameters", {}) if isinstance(record, dict) else {}
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
