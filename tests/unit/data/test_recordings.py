"""Raw radar recordings: known velocities and distances come out right of every format, in the makers' layouts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from jitflow.apps.microdoppler.recordings.formats import open_recording, write_recording
from jitflow.apps.microdoppler.recordings.radar import RecordingRadar, list_presets, read_radar
from jitflow.apps.microdoppler.recordings.simulate import simulate_samples
from jitflow.apps.microdoppler.recordings.transform import recording_spectrogram
from jitflow.errors import ConfigError, DataError, MissingFileError

pytest.importorskip("scipy")

FMCW = RecordingRadar(
    carrier_hz=24e9,
    pulses_per_sec=2000.0,
    samples=16,
    bandwidth_hz=300e6,
    range_m=(1, 7),
    gate_m=1.5,
    fft_size=512,
)


def fmcw(**changed):
    return dataclasses.replace(FMCW, **changed)


RADARS = {
    "plain.npy": RecordingRadar(format="npy", carrier_hz=24e9, pulses_per_sec=2000.0, samples=1, fft_size=512),
    "chirps.npy": fmcw(),
    "real.npy": fmcw(iq="real", samples=32),
    "two_lanes.bin": fmcw(receivers=3),
    "four_lanes.bin": fmcw(receivers=2, lanes=4, iq="q_first"),
    "real_lanes.bin": fmcw(receivers=2, iq="real", samples=32),
    "four_real_lanes.bin": fmcw(receivers=3, lanes=4, iq="real", samples=32),
    "turns.bin": fmcw(transmitters=3, pulses_per_sec=6000.0),
    "pauses.bin": fmcw(frame_pulses=100, frame_sec=0.053),
    "turned.npy": fmcw(approaching="positive", iq="q_first"),
    "glasgow.dat": fmcw(),
}


def moving(velocity_m_s, distance_m=4.0, *, wall_m2=100.0):
    """An echo of 1 m^2 with a velocity towards the radar, at the distance after one second, before a strong wall."""

    def echoes(time):
        distance = distance_m - velocity_m_s * (time - 1)
        return np.stack([distance, np.full_like(time, 6.0)]), np.stack([np.ones_like(time), wall_m2 + 0 * time])

    return echoes


@pytest.mark.parametrize("velocity", [1.7, -0.9])
@pytest.mark.parametrize("name", RADARS)
def test_a_known_velocity_is_found_to_within_a_bin(tmp_path, name, velocity):
    radar = RADARS[name]
    num_pulses = int(2 * radar.pulses_per_sec) if radar.frame_pulses is None else 38 * 100
    samples = simulate_samples(radar, moving(velocity), num_pulses, noise_power=radar.samples / 100)
    write_recording(tmp_path / name, radar, samples)
    # An Ancortek file says these itself.
    unknown = dict.fromkeys(("carrier_hz", "pulses_per_sec", "samples", "bandwidth_hz"))
    stated = dataclasses.replace(radar, **unknown) if name.endswith(".dat") else radar
    found = recording_spectrogram(open_recording(tmp_path / name, stated))
    bin_m_s = found.velocity_m_s[1] - found.velocity_m_s[0]
    peaks = found.velocity_m_s[found.level_db.argmax(axis=0)]
    assert np.abs(peaks - velocity).max() < bin_m_s
    hz_per_m_s = 2 * 24e9 / 299_792_458.0
    np.testing.assert_allclose(found.frequency_hz, found.velocity_m_s * hz_per_m_s, atol=1e-9)
    # The first column is half a window after the first pulse, the last one half a window before the end.
    assert found.time_sec[0] == pytest.approx(0.05) and found.time_sec[-1] == pytest.approx(1.95, abs=0.02)
    np.testing.assert_allclose(np.diff(found.time_sec), 0.01)
    assert np.median(found.level_db.max(axis=0)) == pytest.approx(60, abs=1)
    if radar.samples > 1:
        bin_m = found.range_m[1] - found.range_m[0]
        assert bin_m == pytest.approx(299_792_458.0 / (2 * 300e6))
        strongest = found.range_m[found.range_db.argmax(axis=0)]
        distance = 4.0 - velocity * (found.time_sec - 1)
        assert np.abs(strongest - distance).max() < bin_m
        assert np.all((found.gate_m[0] <= strongest) & (strongest <= found.gate_m[1]))


def test_what_stands_still_is_suppressed_and_what_moves_is_not(tmp_path):
    path = tmp_path / "a.npy"
    write_recording(path, FMCW, simulate_samples(FMCW, moving(1.5), 4000))
    whole = dataclasses.replace(FMCW, gate_m=None)
    levels = {}
    for highpass in (0.0, 0.1):
        found = recording_spectrogram(open_recording(path, dataclasses.replace(whole, highpass_m_s=highpass)))
        middle = found.level_db[:, 50:-50]
        rest, walk = (abs(found.velocity_m_s - v).argmin() for v in (0.0, 1.5))
        levels[highpass] = middle[rest].mean(), middle[walk].mean()
    # The wall of 100 m^2 is 20 dB above an echo of 1 m^2.
    assert levels[0.0][0] == pytest.approx(80, abs=0.1)
    assert levels[0.1][0] < levels[0.0][0] - 60
    assert levels[0.1][1] == pytest.approx(levels[0.0][1], abs=0.1)


def test_the_velocity_axis_is_cut_and_turned_over_where_it_is_ambiguous(tmp_path):
    # 12.5 m/s are unambiguous: the band of -3 to 9 m/s has velocities above the half of it.
    radar = dataclasses.replace(RADARS["plain.npy"], velocity_m_s=(-3.0, 9.0))
    write_recording(tmp_path / "a.npy", radar, simulate_samples(radar, moving(7.5, 12.0), 2000))
    found = recording_spectrogram(open_recording(tmp_path / "a.npy", radar))
    bin_m_s = found.velocity_m_s[1] - found.velocity_m_s[0]
    assert found.velocity_m_s[0] >= -3 > found.velocity_m_s[0] - bin_m_s
    assert found.velocity_m_s[-1] <= 9 < found.velocity_m_s[-1] + bin_m_s
    assert np.abs(found.velocity_m_s[found.level_db.argmax(axis=0)] - 7.5).max() < bin_m_s


# ------------------------------------------------------------------------------------- layouts, written out by hand


def pulses(path, radar):
    return np.concatenate(list(open_recording(path, radar).blocks()))


def small(**changed):
    given = {"samples": 2, "bandwidth_hz": 300e6, "carrier_hz": 24e9, "pulses_per_sec": 1000.0, "range_m": None}
    return RecordingRadar(**{**given, **changed})


def test_two_lanes_hold_pairs_of_samples_of_one_receiver_after_the_other(tmp_path):
    # Two receivers, two samples: I0 I1 Q0 Q1 of the first, then of the second; then the next chirp.
    np.arange(1, 17, dtype="<i2").tofile(tmp_path / "a.bin")
    found = pulses(tmp_path / "a.bin", small(receivers=2))
    assert found.dtype == np.complex64
    assert np.array_equal(found, [[[1 + 3j, 2 + 4j], [5 + 7j, 6 + 8j]], [[9 + 11j, 10 + 12j], [13 + 15j, 14 + 16j]]])
    swapped = pulses(tmp_path / "a.bin", small(receivers=2, iq="q_first"))
    assert np.array_equal(swapped, found.imag + 1j * found.real)


def test_four_lanes_hold_all_receivers_of_a_sample(tmp_path):
    # I of receivers 1 to 4, then Q of them, for each sample.
    np.arange(1, 17, dtype="<i2").tofile(tmp_path / "a.bin")
    found = pulses(tmp_path / "a.bin", small(receivers=3, lanes=4))
    assert np.array_equal(found, [[[1 + 5j, 9 + 13j], [2 + 6j, 10 + 14j], [3 + 7j, 11 + 15j]]])


def test_real_samples_of_both_layouts(tmp_path):
    np.arange(1, 9, dtype="<i2").tofile(tmp_path / "a.bin")
    assert np.array_equal(
        pulses(tmp_path / "a.bin", small(iq="real", samples=4, receivers=2)), [[[1, 2, 3, 4], [5, 6, 7, 8]]]
    )
    found = pulses(tmp_path / "a.bin", small(iq="real", lanes=4, receivers=2))
    assert np.array_equal(found, [[[1, 5], [2, 6]]])


def test_a_text_of_the_glasgow_set(tmp_path):
    path = tmp_path / "1P01A01R01.dat"
    path.write_text("5.8e9\n1\n4\n400e6\n" + "1+2i\r\n-3-4i\n0.5e1+6i\n7\n" * 500)
    recording = open_recording(path, dataclasses.replace(read_radar("ancortek"), range_m=None))
    assert recording.num_pulses == 500
    radar = recording.radar
    assert (radar.carrier_hz, radar.pulses_per_sec, radar.samples, radar.bandwidth_hz) == (5.8e9, 1000, 4, 400e6)
    block = next(recording.blocks())
    assert np.array_equal(block[499], [[1 + 2j, -3 - 4j, 5 + 6j, 7]])


def test_a_continuous_wave_in_the_same_format_has_no_range(tmp_path):
    path = tmp_path / "cw.dat"
    path.write_text("24e9\n1\n2\n0\n" + "1+2i\n3+4i\n" * 500)
    recording = open_recording(path, RecordingRadar())
    assert (recording.num_pulses, recording.radar.samples, recording.radar.pulses_per_sec) == (1000, 1, 2000)


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 2, 4), (3, 2, 2, 4)])
def test_arrays_of_every_shape(tmp_path, shape):
    values = (np.arange(np.prod(shape)) * (1 - 2j)).reshape(shape).astype(np.complex128)
    np.save(tmp_path / "a.npy", values)
    radar = small(samples=None, pulses_per_sec=40.0)
    found = pulses(tmp_path / "a.npy", radar)
    samples = shape[-1] if len(shape) > 1 else 1
    assert np.array_equal(found, values.reshape(6, -1, samples))


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("name", "content", "radar", "said"),
    [
        ("a.bin", bytes(5), small(), "16-bit"),
        ("a.bin", b"", small(), "empty"),
        ("a.bin", np.ones(9, "<i2").tobytes(), small(), "multiple of the 4"),
        ("a.bin", np.ones(8, "<i2").tobytes(), small(samples=3), "even"),
        ("a.bin", np.ones(8, "<i2").tobytes(), small(samples=None), "samples of the radar"),
        ("a.dat", b"5.8e9\n1\n2\n4e8\n1+2i\n", RecordingRadar(), "multiple of the 2"),
        ("a.dat", b"5.8e9\n1\n2\n4e8\n", RecordingRadar(), "no samples"),
        ("a.dat", b"5.8e9\n1\n2\n4e8\nnan\n2i\n", RecordingRadar(), "number 5"),
        ("a.dat", b"5.8e9\n1\n2\n4e8\none\n", RecordingRadar(), "text of complex"),
        ("a.dat", b"5.8e9\n0\n2\n4e8\n1\n2\n", RecordingRadar(), "begins with"),
        ("a.dat", b"1\n" * 3 + b"9" * 5000, RecordingRadar(), "200 letters"),
        ("a.dat", b"5.8e9\n1\n2\n4e8\n" + b"1\n" * 800, small(carrier_hz=24e9), "carrier_hz"),
        ("a.wav", b"RIFF", small(), "format"),
    ],
)
def test_a_file_that_does_not_suit_is_one_error_that_names_it(tmp_path, name, content, radar, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, ConfigError), match=said) as error:
        list(open_recording(tmp_path / name, radar).blocks())
    assert "\n" not in str(error.value)
    assert said == "samples of the radar" or name in str(error.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ones((4, 2)), "complex"),
        (np.ones((1, 1, 1, 4, 2), complex), "shape"),
        (np.full((400, 2), np.nan + 0j), "NaN"),
        (np.ones((400, 3), complex), "samples"),
    ],
)
def test_an_array_that_does_not_suit_is_one_error_that_names_it(tmp_path, values, said):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises((DataError, ConfigError), match=said):
        list(open_recording(tmp_path / "a.npy", small()).blocks())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"range_m": (1.0, 30.0)}, "range_m"),
        ({"window_sec": 0.001}, "window_sec"),
        ({"fft_size": 64}, "fft_size"),
        ({"velocity_m_s": (-9.0, 9.0)}, "velocity_m_s"),
        ({"highpass_m_s": 7.0}, "highpass_m_s"),
        ({"samples": 1, "iq": "real"}, "iq"),
        ({"frame_pulses": 100}, "frame_sec"),
        ({"frame_pulses": 100, "frame_sec": 0.02}, "frame_sec"),
        ({"frame_pulses": 100, "frame_sec": 0.06, "transmitters": 3}, "multiple"),
        ({"lanes": 4, "receivers": 5}, "receivers"),
    ],
)
def test_numbers_of_a_radar_that_do_not_suit_each_other(changed, said):
    FMCW.check()
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(FMCW, **changed).check()


def test_a_recording_shorter_than_a_window_is_refused(tmp_path):
    write_recording(tmp_path / "a.npy", FMCW, simulate_samples(FMCW, moving(1), 199))
    with pytest.raises(DataError, match="window_sec"):
        recording_spectrogram(open_recording(tmp_path / "a.npy", FMCW))


# --------------------------------------------------------------------------------------------------------- radars


def test_presets_and_files_that_change_them(tmp_path):
    assert {"ancortek", "iwr1642", "iwr1443", "doppler_24ghz"} == set(list_presets())
    for name in list_presets():
        radar = read_radar(name)
        if radar.carrier_hz is not None:
            radar.check()
    path = tmp_path / "mine.yaml"
    path.write_text("preset: iwr1642\nsamples: 128\nlanes: 4\nvelocity_m_s: [-4, 4]\n")
    mine, preset = read_radar(path), read_radar("iwr1642")
    assert (mine.samples, mine.lanes, mine.velocity_m_s) == (128, 4, (-4, 4))
    assert mine == dataclasses.replace(preset, samples=128, lanes=4, velocity_m_s=(-4.0, 4.0))
    (tmp_path / "again.yaml").write_text(mine.to_yaml())
    assert read_radar(tmp_path / "again.yaml") == mine
    assert read_radar("iwr1642").range_step_m == pytest.approx(0.1664, abs=1e-4)


def test_the_radar_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "microdoppler.md").read_text()
    text = re.search(r"```yaml\n(# my_radar\.yaml\n.*?)```", page, re.DOTALL)[1]
    for mine in (text, re.sub(r"(?m)^# (?=\w+:)", "", text)):
        (tmp_path / "my_radar.yaml").write_text(mine)
        read_radar(tmp_path / "my_radar.yaml").check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("carrier: 24e9", "carrier_hz"),
        ("carrier_hz: fast", "carrier_hz"),
        ("samples: 2.5", "samples"),
        ("lanes: 3", "lanes"),
        ("iq: complex", "iq"),
        ("preset: iwr9999", "iwr1"),
        ("- 24e9", "by name"),
        ("receivers: 0", "receivers"),
    ],
)
def test_a_wrong_setting_of_a_radar_names_it_and_its_file(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        read_radar(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(error.value)


def test_a_radar_that_does_not_exist():
    with pytest.raises(MissingFileError, match=r"none\.yaml"):
        read_radar("none.yaml")
    with pytest.raises(ConfigError, match="ancortek"):
        read_radar("ancortec")
