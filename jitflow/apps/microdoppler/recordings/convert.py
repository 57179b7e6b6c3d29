"""Convert raw radar recordings to a data set of spectrogram arrays: windows in dB, a manifest, and previews."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.arrays.description import DESCRIPTION_NAME
from jitflow.apps.microdoppler.arrays.sample import SPECTROGRAM
from jitflow.apps.microdoppler.manifest import MANIFEST
from jitflow.apps.microdoppler.recordings.formats import open_recording
from jitflow.apps.microdoppler.recordings.preview import draw_recording
from jitflow.apps.microdoppler.recordings.radar import RecordingRadar
from jitflow.apps.microdoppler.recordings.sources import Source
from jitflow.apps.microdoppler.recordings.transform import RecordingSpectrogram, recording_spectrogram
from jitflow.apps.microdoppler.user_files import listed
from jitflow.errors import ConfigError, DataError, check_count
from jitflow.io.files import atomic_path, read_json, user_path, write_json, write_text
from jitflow.io.folder_lock import locked
from jitflow.io.parallel import map_processes
from jitflow.pictures import save_image

log = logging.getLogger(__name__)

RECORD_NAME = "recordings.json"
"""File with the radar, the windows, and what has been converted."""
PREVIEWS = "previews"
_SAVE_EVERY_SEC = 10.0
_Row = dict[str, str]


@dataclass(frozen=True)
class WindowSettings:
    """Windows that recordings are cut into: one sample of the data set each.

    Attributes:
        duration_sec: Length of a window, s; 0 keeps recordings whole.
        overlap: Share of a window that the next one has too, in [0, 1).
    """

    duration_sec: float = 2.5
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.duration_sec <= 3600:
            raise ConfigError(f"duration_sec must lie in [0, 3600]; got {self.duration_sec}")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap must lie in [0, 1); got {self.overlap}")

    def cut(self, num_columns: int, hop_sec: float) -> list[slice]:
        """Return the columns of each window of a spectrogram.

        Args:
            num_columns: Columns of the spectrogram.
            hop_sec: Time from one column to the next.
        """
        size = max(2, round(self.duration_sec / hop_sec)) if self.duration_sec else num_columns
        step = max(1, round(size * (1 - self.overlap)))
        return [slice(first, first + size) for first in range(0, num_columns - size + 1, step)]


# Share of the levels that is below the range that the model distinguishes; most of a spectrogram is noise.
_NOISE_SHARE = 0.1


def convert_recordings(
    sources: Sequence[Source],
    radar: RecordingRadar,
    out: str | Path,
    windows: WindowSettings,
    *,
    num_processes: int = 1,
    on_recording: Callable[[int, int], None] | None = None,
) -> list[_Row]:
    """Convert recordings to a folder that stage 1 reads, or finish an interrupted conversion.

    The folder gets ``ID_1/NAME_001.npz`` and so on (``spectrogram`` (F, T) float32 in dB, row 0 the lowest velocity,
    and its axes), ``previews/NAME.png`` of each whole recording, ``recordings.json``, and in the end ``manifest.csv``
    with user, session, recording and the stretch of the recording that a window's samples are from. Recordings that
    were added since are converted too. ``spectrograms.yaml`` states the range of the levels, from that which a tenth of
    them lies below to the strongest; one that is there already stays.

    Args:
        sources: The recordings.
        radar: Their radar.
        out: The folder; created if missing.
        windows: Length and overlap of the windows.
        num_processes: Number of processes.
        on_recording: Called with (recordings done, all recordings) at the start and after some, in this process.

    Returns:
        The rows of the manifest.

    Raises:
        DataError: If a recording is damaged, or none is as long as a window.
        ConfigError: If an argument is invalid, or the folder holds something else or windows of other settings.
    """
    folder = user_path(out)
    check_count("num_processes", num_processes)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir {folder} is a file; name a folder")
    settings = {"radar": radar.to_record(), "windows": dataclasses.asdict(windows)}
    with locked(folder):
        done = _read_done(folder, settings)
        todo = [source for source in sources if not _is_done(done.get(source.name), source)]
        # A recording that cannot be opened is an error before the long work.
        if todo:
            open_recording(todo[0].path, radar)
        num_before = len(sources) - len(todo)
        if on_recording:
            on_recording(num_before, len(sources))
        converted = map_processes(
            functools.partial(_convert, folder, radar, windows),
            todo,
            workers=max(1, min(num_processes, len(todo))),
            on_items=lambda count: on_recording(num_before + count, len(sources)) if on_recording else None,
        )
        saved = time.monotonic()
        try:
            # Closed at once after an error, so that no process goes on.
            with contextlib.closing(converted):
                for name, result in converted:
                    done[name] = result
                    if time.monotonic() - saved > _SAVE_EVERY_SEC:
                        write_json(folder / RECORD_NAME, {**settings, "recordings": done})
                        saved = time.monotonic()
        finally:
            write_json(folder / RECORD_NAME, {**settings, "recordings": done})
        rows = _rows(sources, done)
        short = [source.name for source in sources if not done[source.name]["windows"]]
        if not rows:
            raise DataError(
                f"no recording is as long as a window of {windows.duration_sec:g} s; shorten it with --duration_sec"
            )
        if short:
            log.warning("%d recordings are shorter than a window and left out: %s", len(short), listed(short))
        write_text(folder / f"{MANIFEST}.csv", _csv_text(rows))
        if not (folder / DESCRIPTION_NAME).exists():
            write_text(folder / DESCRIPTION_NAME, _description([done[source.name] for source in sources]))
    return rows


def _convert(
    folder: Path, radar: RecordingRadar, windows: WindowSettings, source: Source, tick: Callable[[], None]
) -> tuple[str, dict[str, Any]]:
    """Convert one recording; return its name and what the record says of it."""
    found = recording_spectrogram(open_recording(source.path, radar))
    parts = windows.cut(found.level_db.shape[1], found.hop_sec)
    written = []
    for number, part in enumerate(parts):
        path = f"ID_{source.user}/{source.name}_{number + 1:03d}.npz"
        with atomic_path(folder / path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **_window_arrays(found, part))
        # The stretch of the recording that any sample of the window is from, which overlaps with that of the next one.
        times = found.time_sec[part][[0, -1]] + np.array([-0.5, 0.5]) * found.window_sec
        written.append({"path": path, "start_sec": float(times[0]), "stop_sec": float(times[1])})
    title = f"{source.name}: user {source.user}"
    save_image(draw_recording(found, parts, title), folder / PREVIEWS / f"{source.name}.png")
    tick()
    return source.name, {
        "file": str(source.path),
        "bytes": source.path.stat().st_size,
        "user": source.user,
        "median_range_m": float(np.median(found.gate_m.mean(axis=0))),
        "noise_db": float(np.quantile(found.level_db, _NOISE_SHARE)),
        "highest_db": float(found.level_db.max()),
        "windows": written,
    }


def _window_arrays(found: RecordingSpectrogram, part: slice) -> dict[str, np.ndarray]:
    return {
        SPECTROGRAM: found.level_db[:, part],
        "velocity_m_s": found.velocity_m_s,
        "frequency_hz": found.frequency_hz,
        "time_sec": found.time_sec[part],
        "carrier_hz": np.asarray(found.carrier_hz),
    }


def _read_done(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier conversion with the same settings has finished in the folder."""
    path = folder / RECORD_NAME
    if not path.is_file():
        taken = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
        if taken:
            raise ConfigError(f"{folder} holds other files ({listed(taken)}); name an empty folder")
        return {}
    record = read_json(path)
    try:
        differing = [
            name
            for section, values in settings.items()
            for name in {**values, **record[section]}
            if values.get(name) != record[section].get(name)
        ]
        done = {str(name): dict(result) for name, result in record["recordings"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path} is no record of converted recordings; name another folder") from None
    if differing and done:
        raise ConfigError(
            f"{folder} holds windows of other settings ({', '.join(sorted(differing))}); name another folder"
        )
    return done


def _is_done(result: Mapping[str, Any] | None, source: Source) -> bool:
    """Whether a recording has been converted, and its file and user are what they were."""
    now = (str(source.path), source.path.stat().st_size, source.user)
    return result is not None and (result.get("file"), result.get("bytes"), result.get("user")) == now


def _rows(sources: Sequence[Source], done: Mapping[str, Any]) -> list[_Row]:
    """Return the rows of the manifest; a recording without a session is one of its own if others have one."""
    further = sorted({column for source in sources for column in source.columns})
    with_sessions = any(source.session for source in sources)
    rows = []
    for source in sources:
        for window in done[source.name]["windows"]:
            row = {"path": window["path"], "user": str(source.user)}
            if with_sessions:
                row["session"] = source.session or source.name
            row["recording"] = source.name
            row |= {name: f"{window[name]:.6f}" for name in ("start_sec", "stop_sec")}
            rows.append(row | {column: source.columns.get(column, "") for column in further})
    return rows


def _description(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of ``spectrograms.yaml``: the range of the levels that the model distinguishes."""
    low = math.floor(np.median([result["noise_db"] for result in results]))
    high = math.ceil(max(result["highest_db"] for result in results))
    return (
        "# dB; a tenth of the levels, which are noise, lies below. Weaker and stronger ones are clipped in training.\n"
        f"range_db: [{low}, {max(high, low + 1)}]\n"
    )


def _csv_text(rows: Sequence[_Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
