"""Radar of raw recordings, as a preset or a YAML file states it: its samples, and how they become a spectrogram."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jitflow.apps.microdoppler.gait.echo import SPEED_OF_LIGHT_M_S
from jitflow.apps.microdoppler.stated_values import (
    Check,
    check_stated,
    stated_count,
    stated_name,
    stated_pair,
    stated_positive,
    stated_range,
)
from jitflow.errors import ConfigError, MissingFileError, unknown_name
from jitflow.io.files import user_path
from jitflow.io.yaml_file import format_yaml, read_yaml

RADAR_NAME = "radar.yaml"
"""Name of the radar's file beside recordings; taken where no radar is given."""
PRESETS = Path(__file__).parents[1] / "radars"
_SUFFIXES = (".yaml", ".yml")
IQ = ("i_first", "q_first", "real")
SIGNS = ("positive", "negative")
WINDOWS = ("hann", "hamming", "blackman", "boxcar")


@dataclass(frozen=True)
class RecordingRadar:
    """A coherent radar, the layout of its recordings, and the transform of these to spectrograms.

    A pulse is one chirp of an FMCW radar, or one complex sample of a radar without range (``samples: 1``).

    Attributes:
        format: Format of the recordings: ``npy``, ``dca1000`` (``.bin``) or ``ancortek`` (``.dat``); None goes by the
            suffix.
        carrier_hz: Carrier in the middle of the sweep, Hz; None takes that of the file (``ancortek``).
        pulses_per_sec: Pulses in a second, Hz, of all transmitters; None takes that of the file.
        samples: Samples in a pulse; None takes those of the file (``ancortek``, ``npy``).
        bandwidth_hz: Bandwidth swept while these samples are taken, Hz: slope x samples / sample rate. None takes that
            of the file.
        receivers: Receivers in a ``dca1000`` file; the power of all is averaged.
        lanes: LVDS lanes of the ``dca1000`` capture: 2 for the 16xx, 18xx and 68xx, 4 for the 12xx and 14xx.
        transmitters: Transmitters that take turns; the pulses of the first one are used.
        iq: Order of real and imaginary part of a sample: ``i_first``, ``q_first``, or ``real`` without imaginary part.
        frame_pulses: Pulses in a frame, where frames have a pause between them; None for no pauses.
        frame_sec: Time from one frame to the next; pauses are filled in.
        approaching: Sign of the Doppler frequency of what comes closer; None is ``negative`` for chirps, which rise in
            frequency so that the phase grows with the distance, and ``positive`` for single samples. Chirps with
            ``positive`` have their range bins at negative frequencies.
        range_m: Distances that are used, m; None takes those of half the range bins, without the first.
        gate_m: Width of the range gate that follows the strongest moving echo, m; None sums all of ``range_m``.
        highpass_m_s: Velocity below which the high-pass filter (MTI) suppresses echoes, m/s; 0 for no filter.
        window: Window of the short-time Fourier transform.
        window_sec: Its length.
        hop_sec: Time from one column of the spectrogram to the next.
        fft_size: Points of the transform; None takes the power of two at least twice the window.
        velocity_m_s: Velocities that are kept, m/s, positive towards the radar; None keeps all.
    """

    format: str | None = None
    carrier_hz: float | None = None
    pulses_per_sec: float | None = None
    samples: int | None = None
    bandwidth_hz: float | None = None
    receivers: int = 1
    lanes: int = 2
    transmitters: int = 1
    iq: str = "i_first"
    frame_pulses: int | None = None
    frame_sec: float | None = None
    approaching: str | None = None
    range_m: tuple[float, float] | None = None
    gate_m: float | None = None
    highpass_m_s: float = 0.1
    window: str = "hann"
    window_sec: float = 0.1
    hop_sec: float = 0.01
    fft_size: int | None = None
    velocity_m_s: tuple[float, float] | None = None

    @property
    def wavelength_m(self) -> float:
        """Wavelength of the carrier."""
        return SPEED_OF_LIGHT_M_S / self.known("carrier_hz")

    @property
    def prf_hz(self) -> float:
        """Rate of the pulses that are used, those of one transmitter."""
        return self.known("pulses_per_sec") / self.transmitters

    @property
    def velocity_span_m_s(self) -> float:
        """Width of the unambiguous band of radial velocities."""
        return self.prf_hz * self.wavelength_m / 2

    @property
    def range_step_m(self) -> float:
        """Distance from one range bin to the next."""
        return SPEED_OF_LIGHT_M_S / (2 * self.known("bandwidth_hz"))

    @property
    def doppler_sign(self) -> Literal[-1, 1]:
        """Sign of the Doppler frequency of what comes closer."""
        sign = self.approaching or ("positive" if self.samples == 1 else "negative")
        return 1 if sign == "positive" else -1

    @property
    def num_range_bins(self) -> int:
        """Range bins that the samples tell apart: one for each, half as many without imaginary parts."""
        samples = int(self.known("samples"))
        return samples if self.iq != "real" else max(1, samples // 2)

    def range_bins(self) -> range:
        """Return the range bins that are used.

        Raises:
            ConfigError: If ``range_m`` has none, or reaches beyond them.
        """
        if self.samples == 1:
            return range(1)
        if self.range_m is None:
            return range(1, max(2, int(self.known("samples")) // 2))
        low, high = (self.range_m[0] / self.range_step_m, self.range_m[1] / self.range_step_m)
        bins = range(max(0, math.ceil(low)), math.floor(high) + 1)
        if not bins or bins[-1] >= self.num_range_bins:
            raise ConfigError(
                f"range_m {list(self.range_m)} must hold some of the range bins, {self.range_step_m:.3g} m apart and "
                f"end at {(self.num_range_bins - 1) * self.range_step_m:.4g} m; correct it, bandwidth_hz or samples"
            )
        return bins

    @property
    def window_size(self) -> int:
        """Length of the window in pulses; raises ConfigError if that is below 4."""
        size = round(self.window_sec * self.prf_hz)
        if size < 4:
            raise ConfigError(f"window_sec {self.window_sec} has {size} pulses at {self.prf_hz:g} Hz; lengthen it")
        return size

    @property
    def hop_size(self) -> int:
        """Pulses from one column to the next."""
        return max(1, round(self.hop_sec * self.prf_hz))

    @property
    def num_frequencies(self) -> int:
        """Points of the Fourier transform; raises ConfigError if they are fewer than the window has pulses."""
        size = self.fft_size or 2 ** math.ceil(math.log2(2 * self.window_size))
        if size < self.window_size:
            raise ConfigError(f"fft_size {size} is below the {self.window_size} pulses of window_sec; raise it")
        return size

    def known(self, name: str) -> float:
        """Return a number of the radar; raise ConfigError, naming it, if neither radar nor recording states it."""
        value = getattr(self, name)
        if value is None:
            raise ConfigError(f"{name} of the radar is unknown; state it in the file of --radar")
        return float(value)

    def completed(self, source: object, found: Mapping[str, float | None]) -> RecordingRadar:
        """Return the radar with what a recording's header says; raise ConfigError if it says something else.

        Args:
            source: The recording, for messages.
            found: Numbers of the header by name; None where it has none.
        """
        known: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        for name, value in known.items():
            stated = getattr(self, name)
            if stated is not None and not math.isclose(stated, value, rel_tol=1e-6):
                raise ConfigError(f"{source} has {name} {value:g}, but the radar states {stated:g}; remove one of them")
        return dataclasses.replace(self, **known)

    def check(self) -> None:
        """Raise ConfigError unless the numbers of the radar suit each other; call it once all of them are known."""
        self.range_bins()
        if self.lanes == 4 and self.receivers > 4:
            raise ConfigError(f"receivers {self.receivers} do not fit on 4 lanes; correct one of them")
        # Raises the error of a window that does not suit.
        assert self.num_frequencies
        if self.velocity_m_s is not None:
            span = self.velocity_m_s[1] - self.velocity_m_s[0]
            # Tolerate rounding.
            if span > self.velocity_span_m_s * 1.001:
                raise ConfigError(
                    f"velocity_m_s {list(self.velocity_m_s)} spans {span:g} m/s, but {self.prf_hz:g} pulses per second "
                    f"tell only {self.velocity_span_m_s:.4g} m/s apart; narrow it"
                )
        if self.highpass_m_s >= self.velocity_span_m_s / 2:
            raise ConfigError(f"highpass_m_s {self.highpass_m_s:g} suppresses every velocity; lower it")
        if self.iq == "real" and self.samples == 1:
            raise ConfigError("iq: real needs several samples in a pulse: without them the sign of a velocity is lost")
        if (self.frame_pulses is None) != (self.frame_sec is None):
            raise ConfigError("frame_pulses and frame_sec belong together; state both or neither")
        if self.frame_pulses is not None:
            if self.frame_pulses % self.transmitters:
                raise ConfigError(f"frame_pulses {self.frame_pulses} must be a multiple of transmitters")
            if self.num_filled < 0:
                raise ConfigError(f"frame_sec {self.frame_sec:g} is too short for {self.frame_pulses} pulses")

    @property
    def num_filled(self) -> int:
        """Pulses of a transmitter that fit into the pause between two frames."""
        if self.frame_pulses is None or self.frame_sec is None:
            return 0
        return round(self.frame_sec * self.prf_hz) - self.frame_pulses // self.transmitters

    def to_record(self) -> dict[str, Any]:
        """Return what is stated as plain values, for JSON and YAML; what has its default is left out."""
        default = RecordingRadar()
        values = {name: value for name, value in dataclasses.asdict(self).items() if value != getattr(default, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_yaml(self) -> str:
        """Return the text of the radar's file."""
        return format_yaml(self.to_record())


def list_presets() -> list[str]:
    """List the names of the radars that are built in."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_radar(name: str | Path) -> RecordingRadar:
    """Read a radar: a preset by name, or a YAML file, which may name a preset that it changes (``preset: iwr1642``).

    Args:
        name: Name of a preset, or path of a file.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If it is neither, a setting is unknown, or a value invalid.
    """
    path = user_path(name)
    if str(name) in list_presets() and not path.is_file():
        path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        if path.suffix.lower() in _SUFFIXES:
            raise MissingFileError(f"the radar {path} does not exist; name a file, or {' or '.join(list_presets())}")
        raise unknown_name("radar", str(name), list_presets(), hint="Or name a YAML file.")
    values = read_yaml(path, what="radar")
    stated = check_stated({} if values is None else values, _CHECKS, path, example="preset: iwr1642")
    preset = stated.pop("preset", None)
    base = RecordingRadar() if preset is None else read_radar(PRESETS / f"{preset}.yaml")
    return dataclasses.replace(base, **stated)


def _preset(name: str, value: Any) -> str:
    if value not in list_presets():
        raise unknown_name(name, value, list_presets())
    return str(value)


_CHECKS: dict[str, Check] = {
    "preset": _preset,
    "format": stated_name("npy", "dca1000", "ancortek"),
    "carrier_hz": stated_range(1e8, 1e12),
    "pulses_per_sec": stated_range(1, 1e7),
    "samples": stated_count(1, 65_536),
    "bandwidth_hz": stated_range(1e3, 1e11),
    "receivers": stated_count(1, 64),
    "lanes": lambda name, value: int(stated_name("2", "4")(name, str(value))),
    "transmitters": stated_count(1, 64),
    "iq": stated_name(*IQ),
    "frame_pulses": stated_count(1, 1_000_000),
    "frame_sec": stated_positive,
    "approaching": stated_name(*SIGNS),
    "range_m": stated_pair,
    "gate_m": stated_positive,
    "highpass_m_s": stated_range(0, 100),
    "window": stated_name(*WINDOWS),
    "window_sec": stated_range(1e-4, 60),
    "hop_sec": stated_range(1e-5, 60),
    "fft_size": stated_count(4, 65_536),
    "velocity_m_s": stated_pair,
}
