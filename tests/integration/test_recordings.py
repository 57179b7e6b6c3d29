"""Raw recordings from their files to a data set that a training takes, by the commands and nothing else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.microdoppler.arrays.description import ArrayDescription
from jitflow.apps.microdoppler.leakage import find_leakage
from jitflow.apps.microdoppler.manifest import read_manifest
from jitflow.apps.microdoppler.recordings.convert import WindowSettings
from jitflow.apps.microdoppler.recordings.sources import find_recordings
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.cli import main
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.files import read_json
from jitflow.io.table_file import read_table

pytest.importorskip("scipy")
USERS, EACH, SECONDS = 2, 3, 2.5


def run(*words):
    assert main(["microdoppler", *map(str, words)]) == 0


def error_of(capsys, *words):
    capsys.readouterr()
    assert main(["microdoppler", *map(str, words)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    run(
        *("simulate", "--output_dir", folder, "--num_users", USERS, "--min_cadence_gap", 0.2, "--num_processes", 1),
        *("--recordings.radar", "doppler_24ghz", "--per_user", EACH, "--length_sec", SECONDS, "--snr_db", "[30,30]"),
    )
    return folder


@pytest.fixture(scope="module")
def spectrograms(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("spectrograms") / "out"
    convert(raw, out)
    return out


def convert(raw, out, *words, overlap=0.5):
    given = ("--duration_sec", 1.2, "--overlap", overlap, "--num_processes", 1)
    run("spectrogram", raw, "--output_dir", out, *given, *words)


def test_windows_have_their_axes_and_the_walkers_velocity(raw, spectrograms):
    truth = {sample["file"]: sample for sample in read_json(raw / "simulation.json")["samples"]}
    rows = read_table(spectrograms / "manifest.csv")
    # Columns every 10 ms from 0.05 to 2.45 s: windows of 1.2 s begin every 0.6 s.
    assert len(rows["path"]) == USERS * EACH * 3
    for path, recording in zip(rows["path"], rows["recording"], strict=True):
        window = np.load(spectrograms / path)
        level, velocity, time = (window[name] for name in ("spectrogram", "velocity_m_s", "time_sec"))
        assert level.shape == (len(velocity), len(time)) and len(time) == 120 and level.dtype == np.float32
        assert velocity[0] == pytest.approx(-6.2, abs=0.05) and velocity[-1] == pytest.approx(6.2, abs=0.05)
        np.testing.assert_allclose(np.diff(time), 0.01)
        # Half of the energy is slower than the torso, half is faster.
        power = (10 ** (level / 10)).sum(axis=1).cumsum()
        torso = velocity[np.searchsorted(power, 0.5 * power[-1])]
        expected = truth[recording.replace("-", "/", 1) + ".npy"]["torso_velocity_m_s"]
        assert torso == pytest.approx(expected, rel=0.25)
    assert (rows["start_sec"][:3], rows["stop_sec"][:3]) == (
        ["0.000000", "0.600000", "1.200000"],
        ["1.290000", "1.890000", "2.490000"],
    )


def test_the_folder_can_be_trained_on(spectrograms, tmp_path):
    found = find_user_images(spectrograms, val_fraction=0.34)
    leakage = find_leakage(found)
    assert found.user_ids == (1, 2) and found.group == "recording" and found.arrays is not None
    assert leakage["num_groups"] == [4, 2] and leakage["num_shared_groups"] == 0
    latents = tmp_path / "latents"
    run(
        *("extract", "--data_dir", spectrograms, "--output_path", latents, "--val_fraction", 0.34),
        *("--img_size", 64, "--device", "cpu"),
    )
    record = read_json(latents / "extraction.json")["arrays"]
    low, high = record["range_db"]
    # A tenth of the levels lies below, so the notch of the high-pass filter does not widen the range.
    assert low > -5 and high == 62
    assert record["axes"]["duration_sec"] == pytest.approx(1.2) and record["axes"]["carrier_hz"] == 24e9
    run(
        *("train", "--latent_dir", latents, "--output_dir", tmp_path / "run", "--model", "LightningDiT-N/4"),
        *("--trainer.accelerator", "cpu", "--batch_size", 4, "--dry_run"),
    )


def test_every_recording_has_a_preview(spectrograms):
    previews = sorted(path.name for path in (spectrograms / "previews").iterdir())
    assert previews == sorted(f"ID_{user}-rec0{i}.png" for user in (1, 2) for i in (1, 2, 3))
    with Image.open(spectrograms / "previews" / previews[0]) as picture:
        colours = len(picture.convert("RGB").resize((64, 64)).getcolors(4096))
    assert colours > 100


def test_again_changes_nothing_and_new_recordings_are_added(raw, spectrograms, tmp_path):
    some, out = tmp_path / "some", tmp_path / "out"
    shutil.copytree(raw, some, ignore=shutil.ignore_patterns("rec02.npy", "rec03.npy", "manifest.csv"))
    convert(some, out)
    (out / "spectrograms.yaml").write_text("range_db: [0, 50]\n")
    marks = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    shutil.copy(raw / "ID_2" / "rec02.npy", some / "ID_2")
    convert(some, out)
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert (out / "spectrograms.yaml").read_text() == "range_db: [0, 50]\n"
    lines = (spectrograms / "manifest.csv").read_text().splitlines()
    expected = [line for line in lines if "rec01" in line or "ID_2-rec02" in line]
    assert (out / "manifest.csv").read_text().splitlines() == [lines[0], *expected] and len(expected) == 9
    one = next(iter(marks)).relative_to(out)
    assert (out / one).read_bytes() == (spectrograms / one).read_bytes()


def test_mistakes_are_one_line(raw, spectrograms, tmp_path, capsys):
    given = ("--num_processes", 1)
    assert "duration_sec" in error_of(capsys, "spectrogram", raw, "--output_dir", spectrograms, *given)
    assert "pulses_per_sec" not in error_of(capsys, "spectrogram", tmp_path / "none", *given)
    assert "other files" in error_of(capsys, "spectrogram", raw, "--output_dir", raw, *given)
    out = ("--output_dir", tmp_path / "out")
    assert "--duration_sec" in error_of(capsys, "spectrogram", raw, *out, "--duration_sec", 9, *given)
    assert "overlap" in error_of(capsys, "spectrogram", raw, *out, "--overlap", 1, *given)
    alone = tmp_path / "ID_3" / "a.npy"
    alone.parent.mkdir()
    shutil.copy(raw / "ID_1" / "rec01.npy", alone)
    assert "ancortek" in error_of(capsys, "spectrogram", alone, *out, *given)
    assert "recordings" in error_of(capsys, "spectrogram", *out, *given)
    assert "other parameters" in error_of(
        capsys, "simulate", "--output_dir", raw, "--num_users", 3, "--recordings.radar", "doppler_24ghz"
    )
    assert "m away" in error_of(
        *(capsys, "simulate", "--output_dir", tmp_path / "far", "--num_users", 1),
        *("--recordings.radar", "ancortek", "--length_sec", 60),
    )


def test_a_chirp_radar_sees_the_same_walk(tmp_path):
    (tmp_path / "small.yaml").write_text(
        "format: dca1000\ncarrier_hz: 24e9\npulses_per_sec: 2000\nsamples: 64\nbandwidth_hz: 300e6\nreceivers: 2\n"
        "range_m: [1, 15]\ngate_m: 2\nvelocity_m_s: [-6.2, 6.2]\n"
    )
    walks = ("--num_users", 1, "--per_user", 1, "--length_sec", 2, "--num_processes", 1, "--snr_db", "[30,30]")
    for name in (tmp_path / "small.yaml", "doppler_24ghz"):
        folder = tmp_path / f"raw_{'chirps' if name != 'doppler_24ghz' else 'wave'}"
        run("simulate", "--output_dir", folder, "--recordings.radar", name, *walks)
        run("spectrogram", folder, "--output_dir", f"{folder}_out", "--duration_sec", 0, "--num_processes", 1)
    chirps, wave = (
        np.load(tmp_path / f"raw_{name}_out" / "ID_1" / "ID_1-rec01_001.npz") for name in ("chirps", "wave")
    )
    np.testing.assert_array_equal(chirps["velocity_m_s"], wave["velocity_m_s"])
    seen = wave["spectrogram"] > wave["spectrogram"].max() - 25
    # Echoes that lie in different range bins do not interfere, so levels differ where limbs cross.
    assert abs(np.median((chirps["spectrogram"] - wave["spectrogram"])[seen])) < 1
    assert np.corrcoef(chirps["spectrogram"][seen], wave["spectrogram"][seen])[0, 1] > 0.7
    record = json.loads((tmp_path / "raw_chirps_out" / "recordings.json").read_text())
    truth = read_json(tmp_path / "raw_chirps" / "simulation.json")["samples"][0]
    assert record["recordings"]["ID_1-rec01"]["median_range_m"] == pytest.approx(truth["distance_m"], abs=1)


# ------------------------------------------------------------------------------------------------ whose recordings


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_users_sessions_and_names_are_read_from_folders_and_files(tmp_path):
    touch(tmp_path, "ID_1/session2/rec1.bin", "ID_1/session10/rec1.bin", "ID_2/a b.npy", "user_03_x.dat", "notes.txt")
    found = {source.name: (source.user, source.session) for source in find_recordings([tmp_path])}
    assert found == {
        "ID_1-session2-rec1": (1, "user 1 session 2"),
        "ID_1-session10-rec1": (1, "user 1 session 10"),
        "ID_2-a_b": (2, ""),
        "user_03_x": (3, ""),
    }
    one = find_recordings([tmp_path / "ID_1" / "session2" / "rec1.bin"])[0]
    assert (one.user, one.session) == (1, "user 1 session 2")


def test_names_of_the_glasgow_set(tmp_path, caplog):
    touch(tmp_path, "December/1P36A01R02.dat", "March/6P36A06R1.dat")
    first, second = find_recordings([tmp_path])
    assert first.user == second.user == 36
    assert first.columns == {"activity": "1", "repetition": "2", "campaign": "December"}
    assert second.columns == {"activity": "6", "repetition": "1", "campaign": "March"}
    assert "user 36" in caplog.text


def test_a_manifest_of_recordings_goes_on_to_that_of_the_spectrograms(raw, tmp_path):
    rows = ["path,user,session,carrying"]
    rows += [f"{raw}/ID_{user}/rec0{i}.npy,{user},day{i},bag" for user, i in ((1, 1), (2, 3))]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    convert(tmp_path / "mine.csv", tmp_path / "out", "--radar", "doppler_24ghz")
    table = read_table(tmp_path / "out" / "manifest.csv")
    assert set(table["session"]) == {"day1", "day3"} and set(table["carrying"]) == {"bag"}
    splits, group = read_manifest(tmp_path / "out" / "manifest.csv", ArrayDescription())
    assert group == "session" and {user: len(files) for user, files in splits[""].items()} == {1: 3, 2: 3}
    assert set(table["recording"]) == {"ID_1-rec01", "ID_2-rec03"}


def test_recordings_that_cannot_be_found_or_told(tmp_path):
    with pytest.raises(MissingFileError, match="none"):
        find_recordings([tmp_path / "none"])
    with pytest.raises(DataError, match="no recordings"):
        find_recordings([tmp_path])
    touch(tmp_path, "walks/a.bin")
    with pytest.raises(DataError, match=r"manifest\.csv"):
        find_recordings([tmp_path])
    touch(tmp_path, "ID_0/a.bin")
    with pytest.raises(DataError, match="from 1"):
        find_recordings([tmp_path / "ID_0" / "a.bin"])
    touch(tmp_path, "ID_1/a.bin")
    with pytest.raises(DataError, match="twice"):
        find_recordings([tmp_path / "ID_1" / "a.bin", tmp_path / "ID_1" / "a.bin"])


@pytest.mark.parametrize(
    ("duration", "overlap", "starts", "size"),
    [(1.0, 0.0, [0, 10], 10), (1.0, 0.5, [0, 5, 10, 15], 10), (0.0, 0.9, [0], 25), (3.0, 0.0, [], 30)],
)
def test_windows_lie_within_the_recording(duration, overlap, starts, size):
    parts = WindowSettings(duration, overlap).cut(25, 0.1)
    assert [part.start for part in parts] == starts and all(part.stop - part.start == size for part in parts)
    with pytest.raises(ConfigError, match="overlap"):
        WindowSettings(1.0, 1.0)


def test_raw_recordings_have_no_sessions(tmp_path, capsys):
    words = ("simulate", "--output_dir", tmp_path / "raw", "--recordings.radar", "ancortek")
    assert "--campaign" in error_of(capsys, *words, "--campaign.sessions", 3)
    assert not (tmp_path / "raw").exists()
