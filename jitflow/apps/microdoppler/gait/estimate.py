"""Estimate the gait from a spectrogram image: step frequency and torso velocity.

Both need the image's axes, range and colours, given by its ``SpectrogramSettings``; the size may differ. They also work
on generated images: colours need not be exactly those of the map.
"""

from __future__ import annotations

import math

import numpy as np

from jitflow.apps.microdoppler.gait.checks import check_pair
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, levels_from_image

Array = np.ndarray

# The two legs differ, so an image correlates with itself more after two steps than after one. In 90 simulated walks the
# peak of one step was at least 0.48 of the highest, and no peak came before it.
_FIRST_PEAK = 0.4
# Images of noise stay below 0.02, simulated walks above 0.4.
_MIN_CORRELATION = 0.1
# Candidate periods relative to the coarse one, in the search over its multiples.
_FINE = np.linspace(0.93, 1.07, 281)

_MIN_LEVEL = 0.02
# Share of a column's energy that is slower than the torso.
_SLOWER_SHARE = 0.55


def estimate_step_frequency(
    image: Array,
    settings: SpectrogramSettings | None = None,
    *,
    limits_hz: tuple[float, float] = (1.0, 2.8),
) -> float:
    """Estimate the step frequency of a spectrogram image by autocorrelation over time.

    Levels minus their mean over time are autocorrelated over time, all velocities together, and normalised by the
    overlap. The first peak within the limits that is at least 0.4 of the highest is the step period; it is then refined
    so that its multiples, weighted by their overlap, fit best, which uses the whole recording.

    Args:
        image: Image, shape ``(H, W, 3)``, uint8.
        settings: Settings of the image; None takes the default.
        limits_hz: Lowest and highest step frequency to search; the default covers walking.

    Returns:
        The step frequency in Hz; NaN if the image is not periodic.

    Raises:
        ConfigError: If the image's shape or type is wrong, or the limits are out of order.
    """
    settings = settings or SpectrogramSettings()
    check_pair("limits_hz", limits_hz, 0.1, 20, unit="Hz")
    levels = levels_from_image(image, settings.colour_map)
    correlation = _autocorrelation(levels)
    width = len(correlation)

    def at(period_sec: Array) -> Array:
        return np.interp(period_sec * (width / settings.duration_sec), np.arange(width), correlation)

    # At lags of more than three quarters, hardly any of the image overlaps.
    periods = np.linspace(1 / limits_hz[1], min(1 / limits_hz[0], 0.75 * settings.duration_sec), 1500)
    value = at(periods)
    peaks = np.flatnonzero((value[1:-1] >= value[:-2]) & (value[1:-1] > value[2:])) + 1
    if not len(peaks) or value[peaks].max() < _MIN_CORRELATION:
        return math.nan
    coarse = periods[peaks[np.argmax(value[peaks] >= _FIRST_PEAK * value[peaks].max())]]
    multiples = np.arange(1, max(1, int(0.7 * settings.duration_sec / coarse)) + 1)
    overlap = 1 - multiples * coarse / settings.duration_sec
    fit = overlap @ at(multiples[:, None] * coarse * _FINE)
    return float(1 / (coarse * _FINE[fit.argmax()]))


def estimate_torso_velocity(image: Array, settings: SpectrogramSettings | None = None) -> float:
    """Estimate the torso's radial velocity in a spectrogram image: about the median of the energy over time.

    The torso's echo is the strongest, so in each column (levels converted back to power) about half of the energy is
    slower and half faster; more exactly 55 % is slower, because of the standing leg (measured on simulated walks). The
    sway of the trunk averages out over steps.

    Args:
        image: Image, shape ``(H, W, 3)``, uint8.
        settings: Settings of the image; None takes the default.

    Returns:
        The velocity in m/s, positive towards the radar; NaN for an empty image.

    Raises:
        ConfigError: If the image's shape or type is wrong.
    """
    settings = settings or SpectrogramSettings()
    levels = levels_from_image(image, settings.colour_map)
    # The lowest levels are clipped; taken as power they would add up over many rows.
    power = np.where(levels < _MIN_LEVEL, 0.0, 10 ** (settings.dynamic_range_db / 10 * (levels - 1)))
    # From the lowest velocity up.
    below = np.cumsum(power[::-1], axis=0)
    below = below[:, below[-1] > 0]
    if not below.size:
        return math.nan

    def mean_velocity(share: float) -> float:
        row = (below >= share * below[-1]).argmax(axis=0)
        return float(settings.velocity_min_m_s + (row.mean() + 0.5) / len(levels) * settings.velocity_span_m_s)

    return mean_velocity(_SLOWER_SHARE if mean_velocity(0.5) > 0 else 1 - _SLOWER_SHARE)


def _autocorrelation(levels: Array) -> Array:
    """Normalised autocorrelation of an image over time, shape ``(W,)``; 1 at lag 0."""
    width = levels.shape[1]
    centred = levels - levels.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * width, axis=1)
    product = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=0), 2 * width)[:width]
    energy = np.concatenate([[0.0], np.cumsum((centred**2).sum(axis=0))])
    lag = np.arange(width)
    overlap: Array = np.sqrt(energy[width - lag] * (energy[-1] - energy[lag]))
    return product / np.maximum(overlap, 1e-9)
