"""Spectrogram arrays: read from any format, scaled by a stated range to images, and back."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow.apps.microdoppler.arrays.axes import ArrayAxes
from jitflow.apps.microdoppler.arrays.colour_maps import (
    COLOUR_MAPS,
    colour_table,
    levels_of_colours,
    recognise_colour_map,
)
from jitflow.apps.microdoppler.arrays.description import ArrayDescription, read_description
from jitflow.apps.microdoppler.arrays.measure import measure_scale
from jitflow.apps.microdoppler.arrays.sample import read_spectrogram
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.gait import (
    draw_walk,
    draw_walkers,
    radar_for_carrier,
    settings_for_radar,
    simulate_signal,
)
from jitflow.apps.microdoppler.gait.picture import spectrogram_levels
from jitflow.apps.microdoppler.gait_scores import score_gait
from jitflow.apps.microdoppler.labelled_images import ImageSets, LabelledImages
from jitflow.errors import CheckpointError, ConfigError, DataError

LOGGER = "jitflow.apps.microdoppler.arrays.measure"


def smooth(rows=48, columns=64, *, low=-55.0, high=-5.0):
    """A smooth ridge of levels in dB, stronger at the top right of the picture: no symmetry hides a flip."""
    velocity, time = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    level = np.exp(-20 * (velocity - 0.4 - 0.2 * np.sin(6 * time)) ** 2) * (0.5 + 0.5 * time)
    return (low + (high - low) * level).astype(np.float32)


def saved(path, values, **beside):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, spectrogram=values, **beside)
    else:
        np.save(path, values)
    return path


def there_and_back(scale, path, size):
    """What a lossless codec would give back of a file."""
    pixels = scale.read(path, size)
    assert pixels.shape == (3, size, size) and pixels.dtype == np.float32 and 0 <= pixels.min() <= pixels.max() <= 255
    return scale.arrays(torch.from_numpy(pixels)[None] / 127.5 - 1)[0]


@pytest.mark.parametrize("first_row", ["lowest", "highest"])
@pytest.mark.parametrize("fit", ["resize", "pad"])
@pytest.mark.parametrize("channels", [1, 2])
def test_values_come_back_in_decibels(tmp_path, channels, fit, first_row):
    values = np.stack([smooth(), smooth()[::-1] - 3])[:channels]
    path = saved(tmp_path / "a.npy", values if channels == 2 else values[0])
    scale = measure_scale([path], ArrayDescription(range_db=(-60.0, 0.0), fit=fit, first_row=first_row))
    # Padded values are the same; resized ones were interpolated twice.
    limit = 1e-3 if fit == "pad" else 1.0
    assert np.abs(there_and_back(scale, path, 64) - values).max() < limit
    # The picture has the highest velocity on top.
    top = scale.read_picture(path)[0].float()
    expected = values[0] if first_row == "highest" else values[0][::-1]
    assert torch.allclose(top, torch.from_numpy((expected + 60) / 60 * 255), atol=1)
    # What is generated is stored and shown the same way.
    assert torch.equal(scale.pictures(values[None])[0], scale.read_picture(path))
    content = scale.file_content(values)
    assert np.array_equal(content["spectrogram"], values if channels == 2 else values[0])


def test_the_range_is_of_the_data_set_and_not_of_a_sample(tmp_path, caplog):
    loud, quiet = smooth(), smooth() - 20
    paths = [saved(tmp_path / f"{i}.npy", values) for i, values in enumerate((loud, quiet))]
    scale = measure_scale(paths, ArrayDescription())
    assert scale.range_db[1] == pytest.approx(loud.max(), abs=1e-3)
    assert quiet.min() - 0.1 < scale.range_db[0] < quiet.min() + 1
    both = [there_and_back(scale, path, 64) for path in paths]
    assert (both[0] - both[1]).mean() == pytest.approx(20, abs=0.5)
    with caplog.at_level(logging.WARNING, LOGGER):
        own = measure_scale(paths, ArrayDescription(relative_to_peak=True))
    assert "relative_to_peak" in caplog.text
    assert own.range_db[1] == 0
    assert np.abs(there_and_back(own, paths[0], 64) - there_and_back(own, paths[1], 64)).max() < 1e-3


def test_what_is_outside_the_range_is_clipped_and_said(tmp_path, caplog):
    values = smooth()
    values[:, :3] = -np.inf
    path = saved(tmp_path / "a.npy", values)
    with caplog.at_level(logging.WARNING, LOGGER):
        scale = measure_scale([path], ArrayDescription(range_db=(-20.0, 0.0), fit="pad"))
    assert "range_db" in caplog.text
    assert np.abs(there_and_back(scale, path, 64) - values.clip(-20, 0)).max() < 1e-3
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        measure_scale([saved(tmp_path / "b.npy", 10 ** (4 * smooth() / 10))], ArrayDescription())
    assert "linear power" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        measure_scale([saved(tmp_path / "c.npy", smooth() + 60)], ArrayDescription())
    assert not caplog.text
    # An image of less than a grey level would be taken for one of another scale.
    with pytest.raises(DataError, match="widen range_db"):
        scale.read(saved(tmp_path / "d.npy", smooth(high=-19.99)), 64)


def test_axes_are_read_completed_and_written(tmp_path):
    velocity, time = -3 + (np.arange(48) + 0.5) * 0.25, (np.arange(64) + 0.5) * 0.04
    more = {"velocity_m_s": velocity, "time_sec": time, "carrier_hz": 24e9}
    up = saved(tmp_path / "up.npz", smooth(), **more)
    down = saved(tmp_path / "down.npz", smooth()[::-1], **{**more, "velocity_m_s": velocity[::-1]})
    # MATLAB's vectors are matrices, and laboratories know frequencies.
    hz = velocity * 2 * 24e9 / 299_792_458
    hertz = saved(tmp_path / "hz.npz", smooth(), frequency=hz[:, None], t=time[None], fc=24e9)
    for path in (up, down, hertz):
        scale = measure_scale([path], ArrayDescription())
        assert scale.axes.duration_sec == pytest.approx(2.56)
        assert scale.axes.velocity_m_s == pytest.approx((-3, 9))
        assert scale.lowest_first == (path != down)
        content = scale.file_content(smooth()[None])
        assert content["velocity_m_s"] == pytest.approx(velocity if path != down else velocity[::-1])
        assert content["frequency_hz"] == pytest.approx(hz if path != down else hz[::-1])
        assert content["time_sec"] == pytest.approx(time) and content["carrier_hz"] == 24e9
    assert torch.equal(*(measure_scale([up], ArrayDescription()).read_picture(path) for path in (up, down)))
    # Axes of other data, and unevenly spaced ones.
    with pytest.raises(DataError, match="different axes"):
        measure_scale([up, saved(tmp_path / "c.npz", smooth(), velocity_m_s=velocity + 1)], ArrayDescription())
    for values in (time**2, 0 * time):
        assert measure_scale([saved(tmp_path / "d.npz", smooth(), t=values)], ArrayDescription()).axes == ArrayAxes()
    placeholder = saved(tmp_path / "e.npz", smooth(), velocity_m_s=0 * velocity)
    scale = measure_scale([placeholder], ArrayDescription())
    assert scale.axes == ArrayAxes() and ArrayScale.of_record(scale.to_record()) == scale
    # What the owner states counts.
    stated = ArrayDescription(velocity_m_s=(-5.0, 5.0), carrier_hz=77e9)
    assert measure_scale([up], stated).axes.velocity_m_s == (-5, 5)


def test_the_record_rebuilds_the_scale(tmp_path):
    path = saved(tmp_path / "a.npz", smooth(), time_sec=(np.arange(64) + 0.5) * 0.04)
    scale = measure_scale([path], ArrayDescription(fit="pad", velocity_m_s=(-3.0, 9.0), carrier_hz=24e9))
    record = scale.to_record()
    assert ArrayScale.of_record(record) == scale
    for change in ({"range_db": [0, 0]}, {"size": [0, 3]}, {"num_channels": 7}, {"axes": {"x": 1}}, {"stated": None}):
        with pytest.raises(CheckpointError, match="damaged record"):
            ArrayScale.of_record({**record, **change})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: saved(p, smooth() + 1j), "complex"),
        (lambda p: saved(p, np.zeros((4, 5, 6, 7))), "shape"),
        (lambda p: saved(p, np.zeros((9, 5, 6))), "one file"),
        (lambda p: saved(p, np.full((6, 8), np.nan)), "NaN"),
        (lambda p: saved(p, np.full((6, 8), 1e300)), "NaN or infinity"),
        (lambda p: saved(p, np.full((6, 8), -np.inf)), "NaN or infinity"),
        (lambda p: saved(p, np.array([["a"]])), "not numbers"),
        (lambda p: saved(p, np.zeros((6, 8))), "equal"),
        (lambda p: saved(p, 100 + np.eye(6) * 1e-5), "equal"),
        (lambda p: np.savez(p.with_suffix(".npz"), a=smooth(), b=smooth()), "several arrays"),
        (lambda p: np.savez(p.with_suffix(".npz"), time=np.arange(5.0)), "two dimensions"),
    ],
)
def test_what_is_no_spectrogram_is_one_error_that_names_the_file(tmp_path, make, said):
    make(tmp_path / "bad.npy")
    with pytest.raises(DataError, match=said) as error:
        measure_scale([next(tmp_path.iterdir())], ArrayDescription())
    assert str(tmp_path) in str(error.value)


def test_files_of_a_set_are_alike(tmp_path):
    one = saved(tmp_path / "one.npy", smooth())
    with pytest.raises(DataError, match="channels"):
        measure_scale([one, saved(tmp_path / "two.npy", np.stack([smooth()] * 2))], ArrayDescription())
    scale = measure_scale([one], ArrayDescription(fit="pad"))
    for rows, size in ((40, 64), (48, 32)):
        with pytest.raises(DataError, match="fit: pad"):
            scale.read(saved(tmp_path / "other.npy", smooth(rows)), size)
    chosen = ArrayDescription(array="b")
    path = tmp_path / "named.npz"
    np.savez(path, a=smooth() - 9, b=smooth())
    assert np.array_equal(read_spectrogram(path, chosen).values[0], smooth()[::-1])
    with pytest.raises(DataError, match="no array 'c'"):
        read_spectrogram(path, ArrayDescription(array="c"))
    # Our own name counts, and axes on a grid are no spectrograms.
    np.savez(path, a=smooth() - 9, spectrogram=smooth())
    assert np.array_equal(read_spectrogram(path, ArrayDescription()).values[0], smooth()[::-1])
    np.savez(path, a=smooth(), time=np.ones((48, 64)))
    assert np.array_equal(read_spectrogram(path, ArrayDescription()).values[0], smooth()[::-1])


# ----------------------------------------------------------------------------------------------- spectrograms.yaml


def test_a_description_is_read(tmp_path):
    assert read_description(tmp_path) is None
    text = "range_db: [-45, 0]\ncarrier_hz: 24e9\nfit: pad\nrelative_to_peak: true\nlabel: activity\nduration_sec:\n"
    (tmp_path / "spectrograms.yaml").write_text(text)
    expected = {"range_db": (-45, 0), "carrier_hz": 24e9, "fit": "pad", "relative_to_peak": True, "label": "activity"}
    assert read_description(tmp_path) == ArrayDescription(**expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("range_dB: [-45, 0]", "range_db"),
        ("range_db: [0, -45]", "rise"),
        ("range_db: -45", "two numbers"),
        ("carrier_hz: 24 GHz", "number"),
        ("carrier_hz: -1", "above 0"),
        ("fit: crop", "unknown"),
        ("relative_to_peak: 1", "true or false"),
        ("colour_map: parula", "unknown"),
        ("- 3", "by name"),
        ("fit: pad\nfit: pad", "twice"),
    ],
)
def test_a_wrong_description_names_file_and_setting(tmp_path, text, said):
    (tmp_path / "spectrograms.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        read_description(tmp_path)
    assert "spectrograms.yaml" in str(error.value)


# ------------------------------------------------------------------------------------------------------ colour maps


@pytest.fixture(scope="module")
def walk():
    """Levels of a simulated walk with its noise, (256, 256), uint8."""
    radar = radar_for_carrier(24e9)
    settings = settings_for_radar(radar)
    signal = simulate_signal(draw_walkers(1, 0)[0], draw_walk(0, 0, 0), radar, settings.num_samples(radar))
    return (spectrogram_levels(signal, radar, settings) * 255).round().astype(np.uint8)


def by_jpeg(picture, side=64):
    stream = io.BytesIO()
    Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream).convert("RGB"))


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_a_colour_map_is_recognised_and_inverted(name, walk):
    level = (smooth(128, 128, low=0, high=255)).round().astype(np.uint8)
    picture = colour_table(name)[level]
    assert recognise_colour_map(picture) == name
    assert np.abs(levels_of_colours(picture, name) * 255 - level).mean() < 0.3
    # Saved by JPEG and at half the size, also with the noise that spectrograms have.
    worn = by_jpeg(picture)
    assert recognise_colour_map(worn) == name
    small = np.asarray(Image.fromarray(level).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(levels_of_colours(worn, name) * 255 - small).mean() < 6
    found = recognise_colour_map(by_jpeg(colour_table(name)[walk], 128))
    # The two kinds of jet are too alike.
    assert found == name or {found, name} == {"jet", "matlab_jet"}


def test_other_pictures_are_of_no_colour_map():
    rng = np.random.default_rng(0)
    photo = np.stack([smooth(low=20, high=200), 255 - smooth(low=0, high=255)[::-1], smooth(low=90, high=100)], -1)
    framed = np.pad(
        colour_table("jet")[smooth(64, 64, low=0, high=255).astype(int)], ((9, 9), (9, 9), (0, 0)), constant_values=255
    )
    for picture in (photo, framed, rng.integers(0, 256, (64, 64, 3)), np.full((64, 64, 3), 7)):
        assert recognise_colour_map(picture.astype(np.uint8)) is None


def test_pictures_of_levels_become_decibels(tmp_path):
    level = smooth(64, 64, low=0, high=255).round().astype(np.uint8)
    Image.fromarray(colour_table("jet")[level]).save(tmp_path / "a.png")
    scale = measure_scale([tmp_path / "a.png"], ArrayDescription(range_db=(-45.0, 0.0), colour_map="jet"))
    assert np.abs(there_and_back(scale, tmp_path / "a.png", 64) - (level / 255 * 45 - 45)).mean() < 0.1
    assert scale.colour_map == "jet"
    plain = measure_scale([tmp_path / "a.png"], ArrayDescription(colour_map="jet"))
    assert (plain.range_db, plain.unit) == ((0, 1), "level")


def test_pictures_of_large_arrays_are_shrunk(tmp_path):
    path = saved(tmp_path / "a.npy", smooth(1200, 64))
    scale = measure_scale([path], ArrayDescription())
    shown = scale.read_picture(path)
    assert shown.shape == (1, 512, 64) and torch.equal(scale.pictures(smooth(1200, 64)[None, None])[0], shown)
    assert scale.arrays(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 1200, 64)


def test_gait_is_read_from_arrays_as_from_pictures(walk):
    settings = settings_for_radar(radar_for_carrier(24e9))
    pictures = torch.from_numpy(walk)[None, None]
    # The same decibels over twice the range.
    arrays = (255 - (255 - pictures.float()) / 2).round().to(torch.uint8)
    speeds = []
    for images, span_db in ((pictures, None), (arrays, 2 * settings.dynamic_range_db)):
        own = LabelledImages(images, torch.zeros(1, dtype=torch.int64))
        users = [{"user_id": 1}]
        score_gait(ImageSets(own, own, own, [1]), users, settings, None, span_db)
        speeds.append(users[0]["torso_velocity_m_s_generated"])
    assert speeds[1] == pytest.approx(speeds[0], rel=0.02)
