"""Transform a radar recording to a spectrogram: range FFT, high-pass filter (MTI), range gate, short-time FFT.

Shapes: R receivers, B range bins, P pulses of one transmitter, M points of the short-time Fourier transform, F kept
frequencies, T columns.

References:
    V. C. Chen, "The Micro-Doppler Effect in Radar", 2nd edition, chapters 1 and 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.recordings.formats import Recording
from jitflow.apps.microdoppler.recordings.radar import RecordingRadar
from jitflow.errors import ConfigError, DataError, optional_package

Array = np.ndarray
_HIGHPASS_ORDER = 4
# Values of a transform in memory at once.
_BLOCK_VALUES = 1 << 22
# A body moves little in this time, so that single columns of noise cannot pull the range gate away.
_GATE_SMOOTHING_SEC = 0.5
_LEAST_POWER = 1e-20
# Range bins that the window of the range FFT spreads an echo's power over.
_SPREAD_BINS = 1.5
# Values of all range profiles, and of a spectrogram, in memory; 8 bytes each.
_MOST_VALUES = 1 << 28
_MOST_LEVELS = 1 << 27


@dataclass(frozen=True)
class RecordingSpectrogram:
    """Spectrogram of a whole recording, and where it was in range.

    Attributes:
        level_db: Level in dB, shape ``(F, T)``, float32, row 0 the lowest velocity; 0 dB is a moving echo whose samples
            have the amplitude 1 in the file.
        velocity_m_s: Radial velocity of each row, shape ``(F,)``, positive towards the radar.
        frequency_hz: Its Doppler frequency, shape ``(F,)``.
        time_sec: Middle of each column since the first pulse, shape ``(T,)``.
        carrier_hz: Carrier frequency.
        hop_sec: Time from one column to the next.
        window_sec: Length of the window.
        range_db: Level of moving echoes over range and time, shape ``(B, T)``, float32.
        range_m: Distance of each range bin, shape ``(B,)``; 0 for a radar without range.
        gate_m: Nearest and farthest distance of the range gate in each column, shape ``(2, T)``.
    """

    level_db: Array
    velocity_m_s: Array
    frequency_hz: Array
    time_sec: Array
    carrier_hz: float
    hop_sec: float
    window_sec: float
    range_db: Array
    range_m: Array
    gate_m: Array


def recording_spectrogram(recording: Recording) -> RecordingSpectrogram:
    """Compute the spectrogram of a recording.

    Each range bin in the gate has a transform of its own, whose powers are added, and those of the receivers averaged.

    Args:
        recording: The recording.

    Returns:
        The spectrogram, with its axes.

    Raises:
        DataError: If the recording is damaged, or shorter than a window; names it.
        ConfigError: If SciPy is not installed, or the recording is too large for its range bins.
    """
    radar = recording.radar
    size, hop = radar.window_size, radar.hop_size
    num = recording.num_pulses // radar.transmitters
    if num < size:
        raise DataError(f"{recording.path} has {num} pulses, fewer than the {size} of a window; shorten window_sec")
    if num // hop * radar.num_frequencies > _MOST_LEVELS:
        raise ConfigError(
            f"{recording.path} gives {num // hop:,} columns of {radar.num_frequencies} frequencies, which do not fit "
            "into the memory; lengthen hop_sec, or split the recording"
        )
    profiles = highpass(range_profiles(recording), radar)
    num = profiles.shape[2]
    transform = _short_time_fft(radar)
    middle = int(transform.m_num_mid)
    # Columns whose windows lie within the recording.
    first, last = -(-middle // hop), (num - size + middle) // hop
    starts = np.arange(first, last + 1) * hop - middle
    energy = _energy(profiles, starts, size)
    lowest, width = _follow_gate(energy, radar)
    rows = _frequency_rows(radar)
    power = _gated_power(profiles, transform, first, lowest, width)[rows % radar.num_frequencies]
    if radar.samples != 1:
        power /= _SPREAD_BINS
    frequency = rows * (radar.prf_hz / radar.num_frequencies)
    bins = np.array(radar.range_bins()) * (radar.range_step_m if radar.samples != 1 else 0.0)
    return RecordingSpectrogram(
        level_db=_decibels(power),
        velocity_m_s=frequency * (radar.wavelength_m / 2),
        frequency_hz=frequency,
        time_sec=transform.t(num, first, last + 1),
        carrier_hz=radar.known("carrier_hz"),
        hop_sec=hop / radar.prf_hz,
        window_sec=size / radar.prf_hz,
        range_db=_decibels(energy / size),
        range_m=bins,
        gate_m=np.stack([bins[lowest], bins[lowest + width - 1]]),
    )


def range_profiles(recording: Recording) -> Array:
    """Read a recording and compute the echo in each range bin: the pulses of one transmitter, pauses filled in.

    Args:
        recording: The recording.

    Returns:
        Echoes, shape ``(R, B, P)``, complex64, whose phase turns forward when a target comes closer; an echo of
        amplitude 1 in the file has the amplitude 1.
    """
    radar = recording.radar
    bins = np.array(radar.range_bins())
    num_values = recording.num_pulses // radar.transmitters * len(bins) * max(1, radar.receivers)
    if num_values > _MOST_VALUES:
        raise ConfigError(
            f"{recording.path} has {recording.num_pulses:,} pulses in {len(bins)} range bins, which do not fit into "
            "the memory; narrow range_m, or split the recording"
        )
    parts, seen = [], 0
    for block in recording.blocks():
        # The turns of the transmitters go on in the next block.
        own = block[(-seen) % radar.transmitters :: radar.transmitters]
        # Now the phase grows with the distance, and the frequencies of the range bins are positive.
        own = own.conj() if radar.doppler_sign > 0 else own
        parts.append(_range_fft(own, bins, radar))
        seen += len(block)
    profiles = np.concatenate(parts, axis=2)
    np.conjugate(profiles, out=profiles)
    return _fill_pauses(profiles, radar) if radar.num_filled else profiles


def highpass(profiles: Array, radar: RecordingRadar) -> Array:
    """Suppress echoes of what stands still with a Butterworth high-pass over the pulses, without delay.

    Args:
        profiles: Echoes, shape ``(R, B, P)``.
        radar: The radar, whose ``highpass_m_s`` is the velocity where half of the amplitude is left.

    Returns:
        The filtered echoes, same shape, complex64.
    """
    if not radar.highpass_m_s:
        return profiles
    signal = _scipy_signal()
    cutoff_hz = 2 * radar.highpass_m_s / radar.wavelength_m
    filters = signal.butter(_HIGHPASS_ORDER, cutoff_hz, "highpass", output="sos", fs=radar.prf_hz)
    # Long enough for the filter to settle.
    pad = min(profiles.shape[2] - 1, math.ceil(3 * radar.prf_hz / cutoff_hz))
    filtered = np.empty_like(profiles)
    for receiver, own in enumerate(profiles):
        for place, echo in enumerate(own):
            filtered[receiver, place] = signal.sosfiltfilt(filters, echo.astype(np.complex128), padlen=pad)
    return filtered


def _range_fft(block: Array, bins: Array, radar: RecordingRadar) -> Array:
    """Transform samples ``(P', R, N)`` to echoes ``(R, len(bins), P')``, complex64."""
    if radar.samples == 1:
        return np.ascontiguousarray(block[:, :, 0].T[:, None, :])
    taper = _scipy_signal().get_window("hann", block.shape[2]).astype(np.float32)
    scaled = block * (taper / taper.sum())
    # A real wave has half of its amplitude at the negative frequency.
    echoes = 2 * np.fft.rfft(scaled, axis=2) if radar.iq == "real" else np.fft.fft(scaled, axis=2)
    return np.ascontiguousarray(echoes[..., bins].transpose(1, 2, 0)).astype(np.complex64)


def _fill_pauses(profiles: Array, radar: RecordingRadar) -> Array:
    """Put the pulses of frames at their times, and interpolate those that would lie in the pauses between."""
    assert radar.frame_pulses is not None
    each = radar.frame_pulses // radar.transmitters
    pulse = np.arange(profiles.shape[2])
    place = pulse // each * (each + radar.num_filled) + pulse % each
    filled = np.empty((*profiles.shape[:2], place[-1] + 1), np.complex64)
    for index in np.ndindex(*profiles.shape[:2]):
        filled[index] = np.interp(np.arange(place[-1] + 1), place, profiles[index])
    return filled


def _energy(profiles: Array, starts: Array, size: int) -> Array:
    """Sum the power of each range bin in each window, averaged over receivers, shape ``(B, T)``."""
    energy = np.empty((profiles.shape[1], len(starts)))
    for place in range(profiles.shape[1]):
        power = np.mean(np.abs(profiles[:, place].astype(np.complex128)) ** 2, axis=0)
        total = np.concatenate([[0.0], np.cumsum(power)])
        energy[place] = total[starts + size] - total[starts]
    return energy


def _follow_gate(energy: Array, radar: RecordingRadar) -> tuple[Array, int]:
    """Choose in each column the first range bin of the gate with most energy, smoothed over time, and its width."""
    num_bins, num_columns = energy.shape
    if radar.gate_m is None or radar.samples == 1:
        return np.zeros(num_columns, dtype=int), num_bins
    width = min(num_bins, max(1, round(radar.gate_m / radar.range_step_m)))
    total = np.concatenate([np.zeros((1, num_columns)), np.cumsum(energy, axis=0)])
    lowest = np.argmax(total[width:] - total[:-width], axis=0)
    half = round(_GATE_SMOOTHING_SEC * radar.prf_hz / radar.hop_size) // 2
    padded = np.pad(lowest, half, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    return smooth.astype(int), width


def _gated_power(profiles: Array, transform: Any, first: int, lowest: Array, width: int) -> Array:
    """Add the powers of the range bins in the gate, averaged over receivers, shape ``(M, T)``."""
    num_receivers, num_bins, _ = profiles.shape
    power = np.zeros((transform.mfft, len(lowest)))
    each = max(1, _BLOCK_VALUES // (transform.mfft * num_bins))
    for start in range(0, len(lowest), each):
        part = slice(start, min(start + each, len(lowest)))
        low, high = lowest[part].min(), lowest[part].max() + width
        bins = np.arange(low, high)[:, None]
        inside = (bins >= lowest[part]) & (bins < lowest[part] + width)
        for receiver in range(num_receivers):
            values = transform.stft(profiles[receiver, low:high], first + part.start, first + part.stop)
            power[:, part] += np.einsum("bmt,bt->mt", np.abs(values) ** 2, inside) / num_receivers
    return power


def _frequency_rows(radar: RecordingRadar) -> Array:
    """Numbers of the Fourier transform's points that are kept, in rising order; those below 0 are negative."""
    num = radar.num_frequencies
    if radar.velocity_m_s is None:
        return np.arange(-(num // 2), num - num // 2)
    step = radar.velocity_span_m_s / num
    low, high = radar.velocity_m_s
    return np.arange(math.ceil(low / step), math.floor(high / step) + 1)


def _short_time_fft(radar: RecordingRadar) -> Any:
    """Return SciPy's transform, in which a steady echo has its amplitude."""
    signal = _scipy_signal()
    window = signal.get_window(radar.window, radar.window_size)
    return signal.ShortTimeFFT(
        window,
        radar.hop_size,
        radar.prf_hz,
        fft_mode="twosided",
        mfft=radar.num_frequencies,
        scale_to="magnitude",
    )


def _decibels(power: Array) -> Array:
    return (10 * np.log10(np.maximum(power, _LEAST_POWER))).astype(np.float32)


def _scipy_signal() -> Any:
    with optional_package("scipy", missing="recordings need SciPy; run `pip install 'jitflow[radar]'`"):
        from scipy import signal
    return signal
