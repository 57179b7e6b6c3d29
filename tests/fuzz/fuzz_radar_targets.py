"""What fuzzing reads of radar data: spectrogram arrays, tables of them, and raw recordings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from jitflow.apps.microdoppler.arrays.description import ArrayDescription, read_description
from jitflow.apps.microdoppler.arrays.sample import read_spectrogram
from jitflow.apps.microdoppler.recordings.formats import open_recording, write_recording
from jitflow.apps.microdoppler.recordings.radar import RecordingRadar, read_radar
from jitflow.apps.microdoppler.recordings.transform import recording_spectrogram
from jitflow.io.table_file import read_table

Add = Callable[..., None]


def add_spectrograms(add: Add, folder: Path) -> None:
    """Spectrogram arrays in every format whose package is installed, manifests and a description."""
    level = np.add.outer(np.arange(6.0), np.arange(8.0))
    axes = {"time_sec": np.arange(8.0), "velocity_m_s": np.arange(6.0)}
    np.save(folder / "level.npy", level)
    np.savez_compressed(folder / "level.npz", spectrogram=level, **axes)
    pages = [Image.fromarray(page.astype(np.float32)) for page in (level, level + 1)]
    pages[0].save(folder / "level.tif", save_all=True, append_images=pages[1:])
    names = ["level.npy", "level.npz", "level.tif"]
    if find_spec("scipy"):
        from scipy.io import savemat

        savemat(folder / "level.mat", {"level": level, "t": axes["time_sec"]}, do_compression=True)
        savemat(folder / "plain.mat", {"level": level})
        names += ["level.mat", "plain.mat"]
    if find_spec("h5py"):
        import h5py

        with h5py.File(folder / "level.h5", "w") as file:
            file.create_dataset("level", data=level, compression="gzip")
            file["time_sec"] = axes["time_sec"]
        names.append("level.h5")
    for name in names:
        add(f"array {name}", folder / name, lambda path: read_spectrogram(path, ArrayDescription()))
    (folder / "manifest.csv").write_text("path,user,session,start_sec,duration_sec\na.npy,1,2,0.5,1.0\nb.npy,2,3,1,1\n")
    add("table csv", folder / "manifest.csv", read_table)
    if find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"path": ["a", "b"], "user": [1, 2]}), folder / "manifest.parquet")
        add("table parquet", folder / "manifest.parquet", read_table)
    (folder / "spectrograms.yaml").write_text("range_db: [-45, 0]\ncarrier_hz: 24e9\nfit: pad\ngroup: session\n")
    add("description", folder / "spectrograms.yaml", lambda path: read_description(path.parent))


def add_recordings(add: Add, folder: Path) -> None:
    """Raw radar recordings in every format, and a radar."""
    samples = (np.arange(1024.0) * np.exp(1j * np.arange(1024))).reshape(256, 1, 4)
    radar = RecordingRadar(carrier_hz=24e9, pulses_per_sec=1000.0, samples=4, bandwidth_hz=3e8)
    for name in ("echo.npy", "echo.bin", "echo.dat"):
        write_recording(folder / name, radar, [samples])
        stated = RecordingRadar() if name == "echo.dat" else radar
        # SciPy is optional, but what reads the files is not.
        add(f"recording {name}", folder / name, functools.partial(_read_recording, stated), 2)
    (folder / "radar.yaml").write_text("preset: iwr1642\nlanes: 4\nrange_m: [1, 5]\ncarrier_hz: 77e9\nframe_pulses: 9")
    add("radar", folder / "radar.yaml", read_radar)


def _read_recording(radar: RecordingRadar, path: Path) -> None:
    recording = open_recording(path, radar)
    if find_spec("scipy"):
        recording_spectrogram(recording)
    else:
        list(recording.blocks())
