"""Spectrogram image of a radar echo: velocity over time."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jitflow.apps.microdoppler.arrays.colour_maps import colour_table
from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.apps.microdoppler.gait.checks import check_count, check_positive, check_range
from jitflow.apps.microdoppler.gait.echo import Radar, Walk, simulate_signal
from jitflow.errors import ConfigError, unknown_name

Array = np.ndarray
COLOUR_MAPS = ("viridis", "jet", "turbo", "grey")
CHUNK_COLUMNS = 256
"""Columns of a spectrogram transformed at once, which bounds memory for long recordings."""

# A spectrogram is in memory as a whole.
_MOST_SIDE_PX, _MOST_COLUMNS = 8192, 1_000_000


@dataclass(frozen=True)
class SpectrogramSettings:
    """Settings of a spectrogram image. Time runs left to right, velocity bottom to top.

    Args:
        duration_sec: Duration of the image, from its left edge to its right.
        window_sec: Length of the Hann window; velocities are resolved to about wavelength / (2 window).
        hop_sec: Time between two columns before resizing.
        fft_size: Points of the Fourier transform, zero-padded; None takes the power of two at least twice the window.
        velocity_min_m_s: Radial velocity at the bottom edge; negative is away from the radar.
        velocity_max_m_s: Radial velocity at the top edge.
        dynamic_range_db: Levels from the strongest (1, the colour map's end) down to this far below it (0).
        height_px: Height of the image.
        width_px: Width of the image.
        colour_map: ``"viridis"`` (close to MATLAB's parula), ``"jet"``, ``"turbo"`` or ``"grey"``.

    Raises:
        ConfigError: If a number is out of range.
    """

    duration_sec: float = 2.5
    window_sec: float = 0.1
    hop_sec: float = 0.01
    fft_size: int | None = None
    velocity_min_m_s: float = -3.0
    velocity_max_m_s: float = 9.0
    dynamic_range_db: float = 40.0
    height_px: int = 256
    width_px: int = 256
    colour_map: str = "viridis"

    def __post_init__(self) -> None:
        check_range("duration_sec", self.duration_sec, 0.1, 3600, unit="s")
        check_positive("window_sec", self.window_sec, unit="seconds")
        check_positive("hop_sec", self.hop_sec, unit="seconds")
        if self.hop_sec > self.duration_sec:
            raise ConfigError(f"hop_sec {self.hop_sec} is longer than duration_sec {self.duration_sec}; shorten it")
        if self.duration_sec / self.hop_sec > _MOST_COLUMNS:
            raise ConfigError(f"hop_sec {self.hop_sec} gives more than {_MOST_COLUMNS:,} columns; lengthen it")
        if self.fft_size is not None:
            check_count("fft_size", self.fft_size, most=_MOST_COLUMNS)
        if not self.velocity_min_m_s < self.velocity_max_m_s:
            raise ConfigError(
                f"velocity_min_m_s {self.velocity_min_m_s} must be below velocity_max_m_s {self.velocity_max_m_s}"
            )
        check_range("dynamic_range_db", self.dynamic_range_db, 1, 200, unit="dB")
        check_count("height_px", self.height_px, least=8, most=_MOST_SIDE_PX)
        check_count("width_px", self.width_px, least=8, most=_MOST_SIDE_PX)
        if self.colour_map not in COLOUR_MAPS:
            raise unknown_name("colour_map", self.colour_map, COLOUR_MAPS)

    @property
    def num_columns(self) -> int:
        """Number of spectrogram columns before resizing."""
        return max(1, round(self.duration_sec / self.hop_sec))

    @property
    def velocity_span_m_s(self) -> float:
        """Width of the image's velocity axis, from bottom to top."""
        return self.velocity_max_m_s - self.velocity_min_m_s

    def num_samples(self, radar: Radar) -> int:
        """Number of pulses to record, so that every column has a whole window."""
        last = round((self.num_columns - 1) * self.hop_sec * radar.prf_hz)
        return last + self.window_size(radar)

    def window_size(self, radar: Radar) -> int:
        """Length of the window in pulses.

        Raises:
            ConfigError: If that is below 4.
        """
        size = round(self.window_sec * radar.prf_hz)
        if size < 4:
            raise ConfigError(f"window_sec {self.window_sec} spans {size} pulses at {radar.prf_hz} Hz; lengthen it")
        return size


def settings_for_radar(radar: Radar) -> SpectrogramSettings:
    """Default spectrogram settings for a radar: window 100 ms up to 40 GHz, 60 ms above."""
    return SpectrogramSettings(window_sec=0.1 if radar.carrier_hz <= 40e9 else 0.06)


def stft(signal: Array, *, window_size: int, starts: Array, fft_size: int) -> Array:
    """Compute the short-time Fourier transform with a Hann window.

    Each column obeys Parseval's theorem: its energy is ``fft_size`` times that of the windowed samples.

    Args:
        signal: Complex samples, shape ``(T,)``.
        window_size: Samples in a window.
        starts: First sample of each column, shape ``(N,)``, whole numbers.
        fft_size: Points of the transform, at least ``window_size``.

    Returns:
        Complex values, shape ``(fft_size, N)``; row 0 is frequency zero, negative ones are at the end.

    Raises:
        ConfigError: If the sizes are inconsistent.
    """
    if fft_size < window_size:
        raise ConfigError(f"fft_size {fft_size} is below the {window_size} samples of the window; raise it")
    if np.min(starts) < 0 or np.max(starts) + window_size > len(signal):
        raise ConfigError(f"the windows reach beyond the {len(signal)} samples of the signal; record longer")
    window = hann(window_size)
    columns = np.empty((fft_size, len(starts)), dtype=complex)
    for first in range(0, len(starts), CHUNK_COLUMNS):
        part = slice(first, first + CHUNK_COLUMNS)
        frames = signal[np.asarray(starts)[part, None] + np.arange(window_size)]
        columns[:, part] = np.fft.fft(frames * window, n=fft_size, axis=1).T
    return columns


def hann(size: int) -> Array:
    """Periodic Hann window; copies half a window apart sum to 1."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def spectrogram(signal: Array, radar: Radar, settings: SpectrogramSettings) -> tuple[Array, Array, Array]:
    """Compute a spectrogram: power over velocity and time.

    Velocities are taken within the image's band, since those that differ by ``radar.velocity_span_m_s`` are ambiguous.

    Args:
        signal: Echo, shape ``(T,)``, T at least ``settings.num_samples(radar)``.
        radar: The radar.
        settings: Window, hop and axes.

    Returns:
        Power, shape ``(F, N)``; radial velocities in m/s, shape ``(F,)``, ascending, those of the picture's band;
        times in seconds, shape ``(N,)``, from the picture's left edge.

    Raises:
        ConfigError: If the band is wider than the radar's unambiguous span, or the signal too short.
    """
    # Tolerate rounding, as at 24 GHz, 2000 Hz and -3.25 to 9.25 m/s.
    if settings.velocity_span_m_s > radar.velocity_span_m_s * 1.001:
        raise ConfigError(
            f"the velocity axis spans {settings.velocity_span_m_s:g} m/s but prf_hz {radar.prf_hz:g} tells only "
            f"{radar.velocity_span_m_s:.4g} m/s apart; raise prf_hz or narrow the axis"
        )
    size = settings.window_size(radar)
    fft_size = settings.fft_size or 2 ** math.ceil(math.log2(2 * size))
    column = np.arange(settings.num_columns)
    starts = np.round(column * settings.hop_sec * radar.prf_hz).astype(int)
    power = np.abs(stft(signal, window_size=size, starts=starts, fft_size=fft_size)) ** 2
    step = radar.velocity_span_m_s / fft_size
    bins = np.arange(math.ceil(settings.velocity_min_m_s / step), math.floor(settings.velocity_max_m_s / step) + 1)
    return power[bins % fft_size], bins * step, (column + 0.5) * settings.hop_sec


def spectrogram_levels(signal: Array, radar: Radar, settings: SpectrogramSettings) -> Array:
    """Compute the levels of a spectrogram image before colouring.

    Args:
        signal: Echo, shape ``(T,)``.
        radar: The radar.
        settings: Window, hop, axes and range.

    Returns:
        Levels in ``[0, 1]``, shape ``(height_px, width_px)``, float32: row 0 is ``velocity_max_m_s``; 1 is the
        strongest, 0 is ``dynamic_range_db`` or more below it.
    """
    power, velocity, _ = spectrogram(signal, radar, settings)
    strongest = power.max()
    level_db = 10 * np.log10(np.maximum(power / (strongest or 1.0), 1e-20))
    level = np.clip(1 + level_db / settings.dynamic_range_db, 0, 1).astype(np.float32)
    # The box gives the image's edges in rows of the spectrogram (row i covers i to i + 1).
    step = velocity[1] - velocity[0]
    top = (velocity[-1] + step / 2 - settings.velocity_max_m_s) / step
    bottom = len(velocity) - (settings.velocity_min_m_s - velocity[0] + step / 2) / step
    box = (0.0, max(0.0, top), float(level.shape[1]), min(float(len(velocity)), bottom))
    picture = Image.fromarray(level[::-1]).resize(
        (settings.width_px, settings.height_px), Image.Resampling.BILINEAR, box=box
    )
    return np.asarray(picture)


def spectrogram_db(signal: Array, radar: Radar, settings: SpectrogramSettings) -> dict[str, Array]:
    """Compute a spectrogram as laboratories store it: levels in decibels with their axes, neither clipped nor resized.

    Args:
        signal: Echo, shape ``(T,)``.
        radar: The radar.
        settings: Window, hop and axes.

    Returns:
        ``spectrogram`` (F, N) float32 in dB, row 0 the lowest velocity; ``velocity_m_s`` (F,), ``time_sec`` (N,) and
        ``carrier_hz`` ().
    """
    power, velocity, time = spectrogram(signal, radar, settings)
    level_db = 10 * np.log10(np.maximum(power, 1e-20)).astype(np.float32)
    return {
        "spectrogram": level_db,
        "velocity_m_s": velocity,
        "time_sec": time,
        "carrier_hz": np.asarray(radar.carrier_hz),
    }


def spectrogram_image(signal: Array, radar: Radar, settings: SpectrogramSettings) -> Array:
    """Draw a coloured spectrogram: time left to right, velocity bottom to top.

    The strongest echo has the last colour of the map, ``dynamic_range_db`` below it the first.

    Args:
        signal: Echo, shape ``(T,)``, T at least ``settings.num_samples(radar)``.
        radar: The radar.
        settings: Window, hop, axes, range and colours.

    Returns:
        Image, shape ``(height_px, width_px, 3)``, uint8.

    Raises:
        ConfigError: If the settings do not suit the radar, or the signal is too short.
    """
    levels = spectrogram_levels(signal, radar, settings)
    return colour_table(settings.colour_map)[np.round(levels * 255).astype(np.uint8)]


def simulate_image(walker: Walker, walk: Walk, radar: Radar, settings: SpectrogramSettings) -> Array:
    """Simulate a walk and draw its spectrogram.

    Args:
        walker: The walker.
        walk: The walk.
        radar: The radar.
        settings: Window, hop, axes, range and colours.

    Returns:
        Image, shape ``(height_px, width_px, 3)``, uint8.
    """
    return spectrogram_image(simulate_signal(walker, walk, radar, settings.num_samples(radar)), radar, settings)


def levels_from_image(image: Array, colour_map: str) -> Array:
    """Recover spectrogram levels from colours: the nearest of the map's.

    Args:
        image: Image, shape ``(H, W, 3)``, uint8; colours need not be exactly those of the map.
        colour_map: Name of the map.

    Returns:
        Levels in ``[0, 1]``, shape ``(H, W)``.

    Raises:
        ConfigError: If the image's shape or type is wrong, or the map is unknown.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ConfigError(f"a picture must be (H, W, 3) uint8; got {image.shape} {image.dtype}")
    if colour_map not in COLOUR_MAPS:
        raise unknown_name("colour_map", colour_map, COLOUR_MAPS)
    if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
        return image[..., 0] / 255.0
    coarse = image >> 3
    return _inverse_colours(colour_map)[coarse[..., 0], coarse[..., 1], coarse[..., 2]]


@functools.cache
def _inverse_colours(name: str) -> Array:
    """Return the level of the nearest map colour for each of 32 x 32 x 32 colour cells."""
    centre = np.arange(32) * 8 + 3.5
    cells = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"), axis=-1).reshape(-1, 3)
    table = colour_table(name).astype(float)
    distance = (cells**2).sum(1)[:, None] - 2 * cells @ table.T + (table**2).sum(1)
    return distance.argmin(axis=1).reshape(32, 32, 32) / 255.0
