"""Receiver and surroundings of a radar recording: loss with distance, clutter, noise floor, drifting gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.gait.checks import check_count, check_range
from jitflow.core.seeding import mix_seeds

Array = np.ndarray
_SPEED_OF_LIGHT_M_S = 299_792_458.0
# Separate the random streams of clutter and noise.
_CLUTTER, _NOISE = 1, 2


@dataclass(frozen=True)
class Channel:
    """Receiver and surroundings of one recording. Powers are cross-sections in dB re 1 m^2, as the echo's.

    A person's echo is -3 to 3 dB re 1 m^2 on average (16 ellipsoids that add coherently), before the loss.

    Args:
        gain_db: Gain of the receiver when the recording begins; it raises echo, clutter and noise alike.
        drift_db_per_sec: Change of the gain during the recording.
        reference_m: Distance at which an echo has its cross-section; elsewhere it differs by
            ``40 log10(reference / distance)`` dB, by the radar equation.
        noise_floor_db: Power of white noise in the radar's whole band; minus infinity for none.
        clutter_db: Power of the clutter: walls and furniture at zero Doppler; minus infinity for none.
        clutter_moving_db: Share of the clutter that moves (leaves, curtains), dB below the whole.
        clutter_speed_m_s: Standard deviation of its radial velocity; its Doppler spectrum is Gaussian, and wider at a
            higher carrier, ``2 v / wavelength``.
        noise_seed: Seed of noise and clutter.

    Raises:
        ConfigError: If a number is out of range.

    References:
        M. I. Skolnik, "Radar Handbook" (radar equation; Gaussian spectrum of clutter with internal motion).
    """

    gain_db: float = 0.0
    drift_db_per_sec: float = 0.0
    reference_m: float = 8.0
    noise_floor_db: float = -math.inf
    clutter_db: float = -math.inf
    clutter_moving_db: float = -20.0
    clutter_speed_m_s: float = 0.05
    noise_seed: int = 0

    def __post_init__(self) -> None:
        check_range("gain_db", self.gain_db, -100, 100, unit="dB")
        check_range("drift_db_per_sec", self.drift_db_per_sec, -20, 20, unit="dB/s")
        check_range("reference_m", self.reference_m, 0.1, 1e4, unit="m")
        check_range("noise_floor_db", self.noise_floor_db, -math.inf, 100, unit="dB")
        check_range("clutter_db", self.clutter_db, -math.inf, 100, unit="dB")
        check_range("clutter_moving_db", self.clutter_moving_db, -200, 0, unit="dB")
        check_range("clutter_speed_m_s", self.clutter_speed_m_s, 1e-4, 2, unit="m/s")
        check_count("noise_seed", self.noise_seed, least=0)

    def receive(self, echo: Array, distance_m: Array, *, carrier_hz: float, prf_hz: float) -> Array:
        """Return the signal that a receiver records of an echo.

        Args:
            echo: Complex echo of the body at ``reference_m``, shape ``(T,)``.
            distance_m: Distance of the body, shape ``(T,)``.
            carrier_hz: Carrier frequency, Hz.
            prf_hz: Pulse repetition frequency, Hz.

        Returns:
            Complex signal, shape ``(T,)``.
        """
        # Two radars that see the same recording have noise of their own.
        signal = echo * (self.reference_m / distance_m) ** 2
        if self.clutter_db > -math.inf:
            generator = np.random.default_rng(mix_seeds(self.noise_seed, _CLUTTER, round(carrier_hz)))
            signal = signal + self._clutter(generator, len(echo), carrier_hz, prf_hz)
        if self.noise_floor_db > -math.inf:
            generator = np.random.default_rng(mix_seeds(self.noise_seed, _NOISE, round(carrier_hz)))
            signal = signal + _amplitude(self.noise_floor_db) * _white(generator, len(echo))
        gain_db = self.gain_db + self.drift_db_per_sec * np.arange(len(echo)) / prf_hz
        return signal * 10 ** (gain_db / 20)

    def _clutter(self, generator: np.random.Generator, num: int, carrier_hz: float, prf_hz: float) -> Array:
        """Return echoes at zero Doppler: a constant, and noise with a narrow Gaussian spectrum."""
        moving = 10 ** (self.clutter_moving_db / 10)
        turn = np.exp(2j * np.pi * generator.uniform())
        width_hz = 2 * self.clutter_speed_m_s * carrier_hz / _SPEED_OF_LIGHT_M_S
        density = np.exp(-0.5 * (np.fft.fftfreq(num, 1 / prf_hz) / width_hz) ** 2)
        shaped = np.fft.fft(_white(generator, num)) * np.sqrt(density * (num / density.sum()))
        return _amplitude(self.clutter_db) * (
            math.sqrt(1 - moving) * turn + math.sqrt(moving) * np.asarray(np.fft.ifft(shaped))
        )


def _amplitude(power_db: float) -> float:
    return float(10 ** (power_db / 20))


def _white(generator: np.random.Generator, num: int) -> Array:
    """Complex white noise of power 1, shape ``(num,)``."""
    real, imaginary = generator.standard_normal((2, num))
    return (real + 1j * imaginary) / math.sqrt(2)
