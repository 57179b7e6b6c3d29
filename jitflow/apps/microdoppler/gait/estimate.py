"""Reading the gait from a picture of a spectrogram: step frequency and torso velocity.

Both need to know the picture's axes, range and colours, which are those of its ``SpectrogramSettings``; its
size is its own. They are made for generated pictures too: colours need not be exactly those of the map.
"""

from __future__ import annotations

import math

import numpy as np

from jitflow.apps.microdoppler.gait.checks import check_pair
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, levels_from_image

Array = np.ndarray

# The two legs of a person differ, so that a picture resembles itself more after two steps than after one. Of 90
# simulated walks, the peak of one step was at least 0.48 of the highest, and none came before it.
_FIRST_PEAK = 0.4
# Pictures of noise stay below 0.02, simulated walks above 0.4.
_LEAST_CORRELATION = 0.1
# Candidates of the period, as a share of the coarse one, in the search over its multiples.
_FINE = np.linspace(0.93, 1.07, 281)

_LEAST_LEVEL = 0.02
# Share of the energy of a column that is slower than the torso.
_SLOWER_SHARE = 0.55


def estimate_step_frequency(
    image: Array,
    settings: SpectrogramSettings | None = None,
    *,
    limits_hz: tuple[float, float] = (1.0, 2.8),
) -> float:
    """Steps a second, read from a picture: the period after which it resembles itself.

    Levels less their mean over time are correlated with themselves over time, all velocities together, and
    normalised by the overlapping parts. The first peak within the limits that is at least 0.4 of the highest is the
    period of a step; it is then adjusted so that its multiples, weighted by how much of the picture overlaps, fit
    best together, which uses the whole recording.

    Args:
        image: Picture, shape ``(H, W, 3)``, uint8.
        settings: Those the picture was made with; None is the default.
        limits_hz: Slowest and fastest step frequency to look for; walking is within the default.

    Returns:
        The step frequency in Hz; NaN if nothing repeats itself.

    Raises:
        ConfigError: If the picture has another shape or type, or the limits are out of order.
    """
    settings = settings or SpectrogramSettings()
    check_pair("limits_hz", limits_hz, 0.1, 20, unit="Hz")
    levels = levels_from_image(image, settings.colour_map)
    correlation = _self_correlation(levels)
    width = len(correlation)

    def at(period_sec: Array) -> Array:
        return np.interp(period_sec * (width / settings.duration_sec), np.arange(width), correlation)

    # A lag of more than three quarters compares little of the picture with little of it.
    periods = np.linspace(1 / limits_hz[1], min(1 / limits_hz[0], 0.75 * settings.duration_sec), 1500)
    value = at(periods)
    peaks = np.flatnonzero((value[1:-1] >= value[:-2]) & (value[1:-1] > value[2:])) + 1
    if not len(peaks) or value[peaks].max() < _LEAST_CORRELATION:
        return math.nan
    coarse = periods[peaks[np.argmax(value[peaks] >= _FIRST_PEAK * value[peaks].max())]]
    multiples = np.arange(1, max(1, int(0.7 * settings.duration_sec / coarse)) + 1)
    overlap = 1 - multiples * coarse / settings.duration_sec
    fit = overlap @ at(multiples[:, None] * coarse * _FINE)
    return float(1 / (coarse * _FINE[fit.argmax()]))


def estimate_torso_velocity(image: Array, settings: SpectrogramSettings | None = None) -> float:
    """Radial velocity of the torso, read from a picture: the mean over time of about the median of the energy.

    The torso's echo is the strongest, so that in each column (levels turned back into power) about half of the
    energy is slower than it and half faster; 55 % slower, to be exact, because of the standing leg (found on
    simulated walks). Sways of the trunk average out over steps.

    Args:
        image: Picture, shape ``(H, W, 3)``, uint8.
        settings: Those the picture was made with; None is the default.

    Returns:
        The velocity in m/s, positive towards the radar; NaN for an empty picture.

    Raises:
        ConfigError: If the picture has another shape or type.
    """
    settings = settings or SpectrogramSettings()
    levels = levels_from_image(image, settings.colour_map)
    # The lowest levels say "this or less"; taken as power they would add up over many rows.
    power = np.where(levels < _LEAST_LEVEL, 0.0, 10 ** (settings.dynamic_range_db / 10 * (levels - 1)))
    # From the lowest velocity up.
    below = np.cumsum(power[::-1], axis=0)
    below = below[:, below[-1] > 0]
    if not below.size:
        return math.nan

    def mean_velocity(share: float) -> float:
        row = (below >= share * below[-1]).argmax(axis=0)
        return float(settings.velocity_min_m_s + (row.mean() + 0.5) / len(levels) * settings.velocity_span_m_s)

    return mean_velocity(_SLOWER_SHARE if mean_velocity(0.5) > 0 else 1 - _SLOWER_SHARE)


def _self_correlation(levels: Array) -> Array:
    """Normalised correlation of a picture with itself over time, shape ``(W,)``; 1 at lag 0."""
    width = levels.shape[1]
    centred = levels - levels.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * width, axis=1)
    product = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=0), 2 * width)[:width]
    energy = np.concatenate([[0.0], np.cumsum((centred**2).sum(axis=0))])
    lag = np.arange(width)
    overlap: Array = np.sqrt(energy[width - lag] * (energy[-1] - energy[lag]))
    return product / np.maximum(overlap, 1e-9)
