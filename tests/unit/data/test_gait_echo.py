"""The echo against the check values of the specification, and against closed forms."""

import math

import numpy as np
import pytest

from jitflow.apps.microdoppler.arrays.colour_maps import colour_table
from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Walk,
    Walker,
    body_points,
    cycle_duration_sec,
    radar_for_carrier,
    segment_echoes,
    settings_for_radar,
    simulate_image,
    simulate_signal,
    spectrogram,
    spectrogram_image,
    stft,
    torso_velocity_m_s,
    true_step_frequency_hz,
    walking_speed_m_s,
)
from jitflow.apps.microdoppler.gait import echo as echo_module
from jitflow.apps.microdoppler.gait.body import PARTS
from jitflow.apps.microdoppler.gait.echo import SEGMENTS, coherent_sum
from jitflow.apps.microdoppler.gait.picture import COLOUR_MAPS, levels_from_image, spectrogram_levels
from jitflow.errors import ConfigError

# Section 2: distance and cross-section at 0.3 s, radar at (8, 0, 0.2).
SPOTS = {
    "torso": (7.6019, 0.199304),
    "left_foot": (7.7706, 0.014603),
    "right_foot": (7.5063, 0.001561),
    "left_upper_leg": (7.5588, 0.072190),
    "right_lower_leg": (7.6925, 0.061674),
    "head": (7.6090, 0.040598),
}
# Mean cross-sections of a cycle, dBsm.
MEANS = {
    "torso": -7,
    "upper_leg": -11,
    "upper_arm": -12,
    "lower_leg": -13,
    "head": -14,
    "shoulder": -14,
    "lower_arm": -16,
    "hip": -17,
    "foot": -19,
}


def test_spot_values_and_coherent_sum_of_the_specification():
    walker = Walker()
    distance, cross_section = segment_echoes(walker, body_points(walker, np.array([0.3])), np.array([8, 0, 0.2]))
    for name, (expected_m, expected_m2) in SPOTS.items():
        assert distance[SEGMENTS.index(name), 0] == pytest.approx(expected_m, abs=5.1e-5), name
        assert cross_section[SEGMENTS.index(name), 0] == pytest.approx(expected_m2, abs=5.1e-7), name
    total = coherent_sum(distance, cross_section, 3e8 / 24e9)[0]
    assert total.real == pytest.approx(-0.87318, abs=5.1e-6)
    assert total.imag == pytest.approx(-0.51907, abs=5.1e-6)


def test_mean_cross_sections_of_the_specification():
    walker, cycle = Walker(), cycle_duration_sec(1.5)
    points = body_points(walker, np.linspace(0, cycle, 1000))
    _, cross_section = segment_echoes(walker, points, np.array([5, 0, 1 - walker.hip_height_m]))
    mean = dict(zip(SEGMENTS, 10 * np.log10(cross_section.mean(axis=1)), strict=True))
    for name, value in mean.items():
        assert value == pytest.approx(MEANS[name.removeprefix("left_").removeprefix("right_")], abs=0.8), name
    assert 10 * np.log10(cross_section[-1].max()) == pytest.approx(-13, abs=0.8)


def test_part_gains_scale_cross_sections():
    points = body_points(Walker(), np.zeros(1))
    gains = tuple(3.0 if part == "foot" else 0.0 for part in PARTS)
    radar = np.array([8.0, 0, 0])
    ratio = segment_echoes(Walker(part_gain_db=gains), points, radar)[1] / segment_echoes(Walker(), points, radar)[1]
    expected = [10**0.3 if name.endswith("foot") else 1.0 for name in SEGMENTS]
    np.testing.assert_allclose(ratio[:, 0], expected)


@pytest.mark.parametrize(("carrier_hz", "prf_hz"), [(24e9, 2000), (77e9, 6400)])
@pytest.mark.parametrize("velocity", [1.3, -2.0, 7.5])
def test_one_point_gives_one_doppler_line(carrier_hz, prf_hz, velocity):
    assert radar_for_carrier(carrier_hz).prf_hz == prf_hz
    radar = Radar(carrier_hz=carrier_hz, prf_hz=prf_hz)
    settings = settings_for_radar(radar)
    time = np.arange(settings.num_samples(radar)) / prf_hz
    signal = coherent_sum((50 - velocity * time)[None], np.full((1, len(time)), 0.25), radar.wavelength_m)
    # In closed form, a pure tone at 2 v / wavelength, up to the phase at the start.
    tone = 0.5 * np.exp(4j * np.pi / radar.wavelength_m * (velocity * time - 50))
    np.testing.assert_allclose(signal, tone, atol=1e-9)
    power, axis, _ = spectrogram(signal, radar, settings)
    found = axis[power.argmax(axis=0)]
    assert np.ptp(found) == 0
    assert found[0] == pytest.approx(velocity, abs=(axis[1] - axis[0]) / 2)
    # And on the picture: the brightest row is where the velocity axis says.
    levels = spectrogram_levels(signal, radar, settings)
    row = (settings.velocity_max_m_s - velocity) / settings.velocity_span_m_s * settings.height_px
    assert levels[:, 128].argmax() + 0.5 == pytest.approx(row, abs=1.5)


def test_a_target_that_starts_late_starts_there_on_the_picture():
    radar, settings = Radar(), SpectrogramSettings()
    signal = np.full(settings.num_samples(radar), 1e-9, dtype=complex)
    late = 1.5
    signal[round((late + settings.window_sec / 2) * radar.prf_hz) :] = 1.0
    brightness = spectrogram_levels(signal, radar, settings).max(axis=0)
    # At the middle of the window half of it sees the target: a quarter of the power, -6 dB.
    column = np.argmax(brightness >= 1 - 6.1 / settings.dynamic_range_db)
    assert (column + 0.5) / settings.width_px * settings.duration_sec == pytest.approx(late, abs=0.02)


def test_transform_keeps_the_energy():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal(3000) + 1j * rng.standard_normal(3000)
    starts = np.arange(0, 3000 - 200 + 1, 100)
    columns = stft(signal, window_size=200, starts=starts, fft_size=512)
    window = np.sin(np.pi * np.arange(200) / 200) ** 2
    windowed = np.stack([signal[s : s + 200] * window for s in starts], axis=1)
    np.testing.assert_allclose((abs(columns) ** 2).sum(0) / 512, (abs(windowed) ** 2).sum(0))
    # Windows half their length apart add up to one: nothing of the signal is lost or counted twice.
    back = np.zeros(3000, dtype=complex)
    for start, column in zip(starts, np.fft.ifft(columns, axis=0).T, strict=True):
        back[start : start + 200] += column[:200]
    np.testing.assert_allclose(back[100:-100], signal[100:-100], atol=1e-12)


def test_transform_in_portions_is_the_same(monkeypatch):
    signal = np.random.default_rng(0).standard_normal(5000) + 0j
    settings = SpectrogramSettings(duration_sec=2.0)
    whole = spectrogram(signal, Radar(), settings)[0]
    monkeypatch.setattr("jitflow.apps.microdoppler.gait.picture.CHUNK_COLUMNS", 7)
    np.testing.assert_allclose(spectrogram(signal, Radar(), settings)[0], whole, atol=1e-9)


def test_signal_in_portions_is_the_same(monkeypatch):
    walk = Walk(snr_db=20, fade_db=3, start_sec=2.0)
    whole = simulate_signal(Walker(), walk, Radar(), 1000)
    monkeypatch.setattr(echo_module, "CHUNK_SAMPLES", 64)
    np.testing.assert_allclose(simulate_signal(Walker(), walk, Radar(), 1000), whole, atol=1e-12)


def test_noise_has_the_power_asked_for():
    clean = simulate_signal(Walker(), Walk(), Radar(), 4000)
    noise = simulate_signal(Walker(), Walk(snr_db=10), Radar(), 4000) - clean
    ratio = np.mean(abs(clean) ** 2) / np.mean(abs(noise) ** 2)
    assert 10 * math.log10(ratio) == pytest.approx(10, abs=0.2)
    other = simulate_signal(Walker(), Walk(snr_db=10, noise_seed=1), Radar(), 4000) - clean
    assert abs(np.vdot(noise, other)) < 0.1 * np.vdot(noise, noise).real


def test_fade_dims_and_start_time_moves_the_phase():
    quick = Walk(fade_db=20, fade_period_sec=1.0)
    ratio = simulate_signal(Walker(), quick, Radar(), 2000) / simulate_signal(Walker(), Walk(), Radar(), 2000)
    np.testing.assert_allclose(ratio[[0, 1000]], [1, 0.1], atol=1e-9)
    cycle = cycle_duration_sec(1.5)
    later = simulate_signal(Walker(), Walk(start_sec=cycle / 4), Radar(), 200)
    np.testing.assert_allclose(later, simulate_signal(Walker(), Walk(initial_phase=0.25), Radar(), 200), atol=1e-9)


def energy_track(walker, walk, radar, settings):
    power, axis, _ = spectrogram(simulate_signal(walker, walk, radar, settings.num_samples(radar)), radar, settings)
    below = np.cumsum(power, axis=0)
    return axis[(below >= below[-1] / 2).argmax(axis=0)]


@pytest.mark.parametrize("aspect_deg", [0, 10, 40, -60, 150])
@pytest.mark.parametrize("carrier_hz", [24e9, 77e9])
def test_torso_line_is_the_speed_times_the_cosine_of_the_aspect(aspect_deg, carrier_hz):
    walker, radar = Walker(), radar_for_carrier(carrier_hz)
    walk = Walk(aspect_deg=aspect_deg, distance_m=8)
    # Four whole steps, so that sways average out.
    settings = SpectrogramSettings(
        duration_sec=2 * cycle_duration_sec(1.5),
        window_sec=settings_for_radar(radar).window_sec,
        velocity_min_m_s=-6.2,
        velocity_max_m_s=6.2,
    )
    expected = walking_speed_m_s(walker) * math.cos(math.radians(aspect_deg))
    assert torso_velocity_m_s(walker, walk) == pytest.approx(expected)
    # Section 3 has 0.05 m/s for the energy-median track of people who walk up; away it was 0.052 at worst here.
    assert energy_track(walker, walk, radar, settings).mean() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("rv", [0.9, 1.3, 1.8])
def test_the_spectrogram_beats_at_the_cadence(rv):
    walker, radar = Walker(relative_velocity=rv), Radar()
    settings = SpectrogramSettings(duration_sec=20, hop_sec=0.02)
    walk = Walk(distance_m=1000)
    power, _, _ = spectrogram(simulate_signal(walker, walk, radar, settings.num_samples(radar)), radar, settings)
    level = np.log10(power + 1e-4 * power.max())
    level -= level.mean(axis=1, keepdims=True)
    beats = (abs(np.fft.rfft(level * np.hanning(level.shape[1]), 1 << 14, axis=1)) ** 2).sum(0)
    frequency = np.fft.rfftfreq(1 << 14, settings.hop_sec)
    found = frequency[beats.argmax()]
    assert found == pytest.approx(true_step_frequency_hz(walker), rel=0.01)
    assert true_step_frequency_hz(walker) == pytest.approx(2 * math.sqrt(rv) / 1.346)


def test_limbs_reach_as_far_as_the_model_says():
    # Table 1.7 at rv 1.6: toes swing up to 4.33 times the speed, and back at -0.79.
    walker, radar, settings = Walker(relative_velocity=1.6), Radar(), SpectrogramSettings(dynamic_range_db=45)
    levels = spectrogram_levels(
        simulate_signal(walker, Walk(distance_m=12), radar, settings.num_samples(radar)), radar, settings
    )
    rows = np.flatnonzero((levels > 0.25).any(axis=1))
    reach = settings.velocity_max_m_s - rows / settings.height_px * settings.velocity_span_m_s
    speed = walking_speed_m_s(walker)
    assert 3.9 < reach[0] / speed < 4.6
    assert -1.3 < reach[-1] / speed < -0.6


def test_picture_form_and_determinism():
    settings = SpectrogramSettings(height_px=96, width_px=128)
    walk = Walk(snr_db=15, noise_seed=7)
    first, second = (simulate_image(Walker(), walk, Radar(), settings) for _ in range(2))
    assert first.shape == (96, 128, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    other = simulate_image(Walker(), Walk(snr_db=15, noise_seed=8), Radar(), settings)
    assert (first != other).any()


def test_silence_is_a_picture_of_one_colour():
    settings = SpectrogramSettings()
    image = spectrogram_image(np.zeros(settings.num_samples(Radar()), dtype=complex), Radar(), settings)
    assert (image == colour_table("viridis")[0]).all()


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colours_read_back(name):
    table = colour_table(name)
    assert table.shape == (256, 3)
    levels = levels_from_image(table[None], name)[0]
    # Cells of eight colours: half a cell and its neighbours, and flat stretches of the map.
    assert np.abs(levels * 255 - np.arange(256)).max() <= (0 if name == "grey" else 9)
    assert np.abs(levels * 255 - np.arange(256)).mean() < 3


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Radar(carrier_hz=-1), "carrier_hz"),
        (lambda: Radar(prf_hz=float("nan")), "prf_hz"),
        (lambda: radar_for_carrier(0), "carrier_hz"),
        (lambda: Walk(distance_m=0), "distance_m"),
        (lambda: Walk(speed_factor=0), "speed_factor"),
        (lambda: SpectrogramSettings(window_sec=0), "window_sec"),
        (lambda: SpectrogramSettings(hop_sec=9), "hop_sec"),
        (lambda: SpectrogramSettings(velocity_min_m_s=9), "velocity_min_m_s"),
        (lambda: SpectrogramSettings(dynamic_range_db=0), "dynamic_range_db"),
        (lambda: SpectrogramSettings(width_px=0), "width_px"),
        (lambda: SpectrogramSettings(fft_size=0), "fft_size"),
        (lambda: SpectrogramSettings(colour_map="virids"), "did you mean viridis"),
        (lambda: simulate_signal(Walker(), Walk(), Radar(), 0), "num_samples"),
        (lambda: spectrogram(np.zeros(100), Radar(), SpectrogramSettings()), "record longer"),
        (lambda: spectrogram(np.zeros(9999), Radar(), SpectrogramSettings(fft_size=64)), "fft_size"),
        (lambda: spectrogram(np.zeros(9999), Radar(prf_hz=1000), SpectrogramSettings()), "prf_hz"),
        (lambda: spectrogram(np.zeros(9999), Radar(), SpectrogramSettings(window_sec=1e-3)), "window_sec"),
        (lambda: levels_from_image(np.zeros((8, 8, 3)), "grey"), "uint8"),
        (lambda: levels_from_image(np.zeros((8, 8), dtype=np.uint8), "grey"), "uint8"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ConfigError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)
