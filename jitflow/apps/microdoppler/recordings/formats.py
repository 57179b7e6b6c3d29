"""Formats of raw radar recordings: NumPy's ``.npy``, TI DCA1000 ``.bin``, and Ancortek ``.dat`` as the Glasgow set has.

Shapes: P pulses (chirps), R receivers, N samples in a pulse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jitflow.apps.microdoppler.recordings.radar import RecordingRadar
from jitflow.errors import DataError, unknown_name
from jitflow.io.array_formats import open_array_file
from jitflow.io.files import atomic_path
from jitflow.io.iq_file import count_int16, iter_int16, read_complex_text, write_complex_text, write_int16

FORMATS = {".npy": "npy", ".bin": "dca1000", ".dat": "ancortek"}
"""Format of a recording by the suffix of its file."""
SUFFIXES = {name: suffix for suffix, name in FORMATS.items()}
# Carrier (Hz), time of a sweep (ms), samples in a sweep, bandwidth (Hz).
_HEADER_NUMBERS = 4
# Numbers of a file in memory at once.
_BLOCK_NUMBERS = 1 << 21


@dataclass(frozen=True)
class Recording:
    """An opened radar recording: a signal.

    Attributes:
        path: The file.
        radar: The radar, with what the file says about it.
        num_pulses: Pulses P in the file, of all transmitters.
        blocks: Reads the samples in blocks of pulses, each ``(P', R, N)``, complex64, or float32 for ``iq: real``.
    """

    path: Path
    radar: RecordingRadar
    num_pulses: int
    blocks: Callable[[], Iterator[np.ndarray]]


def open_recording(path: Path, radar: RecordingRadar) -> Recording:
    """Open a recording, and complete its radar with what the file says.

    Args:
        path: The file.
        radar: The radar.

    Returns:
        The recording.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged, or its size does not suit the radar; the message names it.
        ConfigError: If the radar lacks a number, contradicts the file, or has numbers that do not suit each other.
    """
    known = radar.format or FORMATS.get(path.suffix.lower())
    if known is None:
        raise unknown_name(f"format of the recording {path}", path.suffix, FORMATS, hint="State `format` of the radar.")
    recording = {"npy": _open_npy, "dca1000": _open_dca1000, "ancortek": _open_ancortek}[known](path, radar)
    recording.radar.check()
    return recording


def write_recording(path: Path, radar: RecordingRadar, blocks: Iterable[np.ndarray]) -> None:
    """Write a recording in the format of its radar, or of its suffix; all numbers of the radar must be known.

    Args:
        path: The file.
        radar: The radar.
        blocks: Samples in blocks of pulses, each ``(P', R, N)``, complex; real for ``iq: real``. All formats but
            ``.npy`` round them to whole numbers; DCA1000 clips them to 16 bits.
    """
    known = radar.format or FORMATS[path.suffix.lower()]
    ordered = (block.imag + 1j * block.real if radar.iq == "q_first" else block for block in blocks)
    if known == "dca1000":
        write_int16(path, (_to_lanes(block, radar) for block in ordered))
    elif known == "ancortek":
        header = (radar.known("carrier_hz"), 1e3 / radar.known("pulses_per_sec"), radar.known("samples"))
        write_complex_text(path, (*header, radar.known("bandwidth_hz")), (block[:, 0].reshape(-1) for block in ordered))
    else:
        samples = np.concatenate(list(ordered)).astype(np.float32 if radar.iq == "real" else np.complex64)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, samples[:, 0, 0] if samples.shape[1:] == (1, 1) else samples, allow_pickle=False)


def _open_npy(path: Path, radar: RecordingRadar) -> Recording:
    with open_array_file(path) as arrays:
        shape, dtype = arrays.entries[""]
    if not 1 <= len(shape) <= 4 or min(shape) == 0:
        raise DataError(
            f"{path} has the shape {shape}; a recording is (pulses,), (pulses, samples), (pulses, receivers, samples) "
            "or (frames, pulses, receivers, samples)"
        )
    if radar.iq == "real" and dtype.kind not in "iuf":
        raise DataError(f"{path} holds {dtype}, but the radar states iq: real; correct one of them")
    if radar.iq != "real" and dtype.kind != "c":
        raise DataError(f"{path} holds {dtype}, no complex numbers; save I + 1j * Q, or state iq: real")
    num_receivers, num_samples = shape[-2] if len(shape) > 2 else 1, shape[-1] if len(shape) > 1 else 1
    num_pulses = int(np.prod(shape)) // (num_receivers * num_samples)

    def blocks() -> Iterator[np.ndarray]:
        with open_array_file(path) as arrays:
            samples = arrays.read("").reshape(num_pulses, num_receivers, num_samples)
        if not np.isfinite(samples).all():
            raise DataError(f"{path} holds NaN or infinity; mend or remove the file")
        each = max(1, _BLOCK_NUMBERS // (num_receivers * num_samples))
        for first in range(0, num_pulses, each):
            block = samples[first : first + each]
            yield block.astype(np.float32) if radar.iq == "real" else _complex(block.real, block.imag, radar)

    return Recording(path, radar.completed(path, {"samples": num_samples}), num_pulses, blocks)


def _open_dca1000(path: Path, radar: RecordingRadar) -> Recording:
    numbers = _numbers_of_pulse(radar)
    total = count_int16(path)
    if radar.lanes == 2 and radar.iq != "real" and numbers % 4:
        raise DataError(f"{path}: two lanes hold pairs of samples, so samples x receivers must be even; correct one")
    if total % numbers:
        raise DataError(
            f"{path} has {total:,} numbers, which is no multiple of the {numbers:,} of a pulse ({radar.samples} "
            f"samples, {radar.receivers} receivers, {radar.lanes} lanes, iq {radar.iq}); correct the radar's file"
        )

    def blocks() -> Iterator[np.ndarray]:
        for block in iter_int16(path, max(1, _BLOCK_NUMBERS // numbers) * numbers):
            yield _from_lanes(block, radar)

    return Recording(path, radar, total // numbers, blocks)


def _open_ancortek(path: Path, radar: RecordingRadar) -> Recording:
    header, samples = read_complex_text(path, _HEADER_NUMBERS)
    carrier_hz, sweep_ms, num_samples, bandwidth_hz = header
    if not (carrier_hz > 0 and sweep_ms > 0 and num_samples >= 1 and num_samples % 1 == 0 and bandwidth_hz >= 0):
        raise DataError(
            f"{path} begins with {list(header)}; expected carrier (Hz), time of a sweep (ms), samples of a sweep and "
            "bandwidth (Hz)"
        )
    # A continuous wave has no bandwidth, and its samples are pulses.
    per_pulse = int(num_samples) if bandwidth_hz else 1
    rate_hz = 1e3 / sweep_ms * (1 if bandwidth_hz else num_samples)
    if len(samples) % per_pulse:
        raise DataError(
            f"{path} has {len(samples):,} samples, no multiple of the {per_pulse} of a sweep; it is cut off, or damaged"
        )
    stated = {"carrier_hz": carrier_hz, "pulses_per_sec": rate_hz, "samples": per_pulse}
    found = radar.completed(path, {**stated, "bandwidth_hz": bandwidth_hz or None})
    pulses = _complex(samples.real, samples.imag, radar).reshape(-1, 1, per_pulse)
    return Recording(path, found, len(pulses), lambda: iter((pulses,)))


def _complex(first: np.ndarray, second: np.ndarray, radar: RecordingRadar) -> np.ndarray:
    """Join real and imaginary parts, in the order that the radar states, to complex64."""
    joined = np.empty(first.shape, np.complex64)
    joined.real, joined.imag = (second, first) if radar.iq == "q_first" else (first, second)
    return joined


def _numbers_of_pulse(radar: RecordingRadar) -> int:
    """Numbers of 16 bits in a pulse: four lanes are always written, also those without a receiver."""
    receivers = 4 if radar.lanes == 4 else radar.receivers
    return int(radar.known("samples")) * receivers * (1 if radar.iq == "real" else 2)


def _from_lanes(numbers: np.ndarray, radar: RecordingRadar) -> np.ndarray:
    """Order the numbers of a DCA1000 capture as samples ``(P', R, N)``.

    Four lanes: the real parts of all receivers, then their imaginary parts, for each sample. Two lanes: one receiver
    after the other, in pairs of samples of which the two real parts come first.
    """
    samples = int(radar.known("samples"))
    if radar.iq == "real":
        values = numbers.astype(np.float32)
        if radar.lanes == 4:
            return values.reshape(-1, samples, 4).transpose(0, 2, 1)[:, : radar.receivers]
        return values.reshape(-1, radar.receivers, samples)
    if radar.lanes == 4:
        parts = numbers.reshape(-1, samples, 2, 4)[..., : radar.receivers]
        return _complex(parts[:, :, 0], parts[:, :, 1], radar).transpose(0, 2, 1)
    pairs = numbers.reshape(-1, 2, 2)
    return _complex(pairs[:, 0], pairs[:, 1], radar).reshape(-1, radar.receivers, samples)


def _to_lanes(block: np.ndarray, radar: RecordingRadar) -> np.ndarray:
    """Order samples ``(P', R, N)`` as the numbers of a DCA1000 capture: the inverse of :func:`_from_lanes`."""
    if radar.lanes == 4:
        lanes = np.zeros((len(block), block.shape[2], 4), block.dtype)
        lanes[..., : block.shape[1]] = block.transpose(0, 2, 1)
        parts = lanes if radar.iq == "real" else np.stack([lanes.real, lanes.imag], axis=2)
        return parts.reshape(-1)
    if radar.iq == "real":
        return block.reshape(-1)
    pairs = block.reshape(-1, 2)
    return np.stack([pairs.real, pairs.imag], axis=1).reshape(-1)
