"""Radar echo of a moving person: the coherent sum of sixteen ellipsoids.

Not modelled, as in the model's source: antenna pattern, occlusion by other limbs, multipath; loss with distance and
clutter belong to a :class:`~jitflow.apps.microdoppler.gait.channel.Channel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.gait.activities import motion_of
from jitflow.apps.microdoppler.gait.activities.motion import Pace
from jitflow.apps.microdoppler.gait.body import PARTS, POINTS, Walker, line_of_sight
from jitflow.apps.microdoppler.gait.channel import Channel
from jitflow.apps.microdoppler.gait.checks import check_positive, check_range

Array = np.ndarray
SPEED_OF_LIGHT_M_S = 299_792_458.0
CHUNK_SAMPLES = 4096
"""Samples of the signal computed at once, which bounds memory (about 10 MB) and fits the processor's cache."""

_SIDES = ("left", "right")
# Kind, ends of the axis, and position of the scatterer: "first", "middle" or "second" end; semi-axis across, metres.
_LAYOUT: dict[str, tuple[str, str, str, float]] = {
    "head": ("neck", "head", "second", 0.10),
    "torso": ("base", "neck", "middle", 0.15),
    "shoulder": ("neck", "{}_shoulder", "second", 0.06),
    "upper_arm": ("{}_shoulder", "{}_elbow", "middle", 0.06),
    "lower_arm": ("{}_elbow", "{}_hand", "second", 0.05),
    "hip": ("base", "{}_hip", "second", 0.07),
    "upper_leg": ("{}_hip", "{}_knee", "middle", 0.07),
    "lower_leg": ("{}_knee", "{}_ankle", "middle", 0.06),
    "foot": ("{}_ankle", "{}_toe", "second", 0.05),
}
_SEGMENTS = [
    (name if name in ("head", "torso") else f"{side}_{name}", name, side)
    for name in PARTS
    for side in (_SIDES[:1] if name in ("head", "torso") else _SIDES)
]
SEGMENTS = tuple(name for name, _, _ in _SEGMENTS)
"""Names of the sixteen scatterers, in the order of their axis."""
_TORSO = SEGMENTS.index("torso")
_PART = np.array([PARTS.index(part) for _, part, _ in _SEGMENTS])
_FROM = np.array([POINTS.index(_LAYOUT[part][0].format(side)) for _, part, side in _SEGMENTS])
_TO = np.array([POINTS.index(_LAYOUT[part][1].format(side)) for _, part, side in _SEGMENTS])
_WHERE = np.array([{"first": 0.0, "middle": 0.5, "second": 1.0}[_LAYOUT[part][2]] for _, part, _ in _SEGMENTS])
_ACROSS_M = np.array([_LAYOUT[part][3] for _, part, _ in _SEGMENTS])


@dataclass(frozen=True)
class Radar:
    """Coherent radar that looks along the ground.

    Args:
        carrier_hz: Carrier frequency, such as 24e9 or 77e9.
        prf_hz: Pulse (or chirp) repetition frequency. Velocities are unambiguous within ``prf_hz * wavelength / 2``:
            12.5 m/s for the default.
        height_m: Height above the ground.

    Raises:
        ConfigError: If a number is out of range.
    """

    carrier_hz: float = 24e9
    prf_hz: float = 2000.0
    height_m: float = 1.0

    def __post_init__(self) -> None:
        check_range("carrier_hz", self.carrier_hz, 1e8, 1e12, unit="Hz")
        check_range("prf_hz", self.prf_hz, 10, 1e6, unit="Hz")
        check_range("height_m", self.height_m, -100, 100, unit="m")

    @property
    def wavelength_m(self) -> float:
        """Wavelength of the carrier."""
        return SPEED_OF_LIGHT_M_S / self.carrier_hz

    @property
    def velocity_span_m_s(self) -> float:
        """Width of the unambiguous band of radial velocities."""
        return self.prf_hz * self.wavelength_m / 2


def radar_for_carrier(carrier_hz: float, *, velocity_span_m_s: float = 12.4) -> Radar:
    """Build a radar for a carrier, with a pulse rate for the velocity span, rounded up to 100 Hz.

    Args:
        carrier_hz: Carrier frequency, Hz.
        velocity_span_m_s: Width of the unambiguous band of radial velocities.

    Returns:
        The radar: 2000 Hz at 24 GHz, 6400 Hz at 77 GHz.

    Raises:
        ConfigError: If a number is out of range.
    """
    check_positive("carrier_hz", carrier_hz, unit="Hz")
    check_positive("velocity_span_m_s", velocity_span_m_s, unit="m/s")
    needed = 2 * velocity_span_m_s * carrier_hz / SPEED_OF_LIGHT_M_S
    return Radar(carrier_hz=carrier_hz, prf_hz=max(100.0, math.ceil(needed / 100) * 100.0))


@dataclass(frozen=True)
class Walk:
    """One walk in front of the radar: the parameters that differ between two recordings of the same walker.

    Args:
        initial_phase: Phase of the gait at the start of the walk, in cycles.
        start_sec: Duration of the walk before the recording begins.
        speed_factor: Relative velocity over the walker's usual one.
        aspect_deg: Angle between the walking direction and the line of sight to the radar in the middle of the
            recording: 0 walks straight at the radar, 180 straight away, positive leaves it on the left.
        distance_m: Horizontal distance from the radar in the middle of the recording.
        snr_db: Mean power of the echo over that of white noise in the radar's whole band; infinity for no noise.
        fade_db: Depth of a slow fade of the echo.
        fade_period_sec: Period of the fade.
        noise_seed: Seed of the noise.

    Raises:
        ConfigError: If a number is out of range.
    """

    initial_phase: float = 0.0
    start_sec: float = 0.0
    speed_factor: float = 1.0
    aspect_deg: float = 0.0
    distance_m: float = 8.0
    snr_db: float = math.inf
    fade_db: float = 0.0
    fade_period_sec: float = 6.0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        check_range("initial_phase", self.initial_phase, -1e6, 1e6, unit="cycles")
        check_range("start_sec", self.start_sec, 0, 1e6, unit="s")
        check_range("speed_factor", self.speed_factor, 0.1, 10)
        check_range("aspect_deg", self.aspect_deg, -360, 360, unit="degrees")
        check_range("distance_m", self.distance_m, 0.5, 1e4, unit="m")
        check_range("snr_db", self.snr_db, -60, math.inf, unit="dB")
        check_range("fade_db", self.fade_db, 0, 60, unit="dB")
        check_range("fade_period_sec", self.fade_period_sec, 0.1, 1e6, unit="s")


def segment_echoes(walker: Walker, points: Array, radar_position_m: Array) -> tuple[Array, Array]:
    """Compute distance and radar cross-section of every body segment, each an ellipsoid about its axis.

    With semi-axes ``a`` across and ``c`` along (half the length), seen at an angle ``theta`` from the axis, the
    cross-section is ``pi a^4 c^2 / (a^2 sin^2 theta + c^2 cos^2 theta)^2``.

    Args:
        walker: The walker.
        points: Positions of the body's points, shape ``(17, 3, T)``.
        radar_position_m: Position of the radar on the same axes, shape ``(3,)``.

    Returns:
        Distances in metres and cross-sections in m^2, each ``(16, T)``, in the order of ``SEGMENTS``.

    References:
        B. R. Mahafza, "Radar Systems Analysis and Design Using MATLAB"; V. C. Chen, "The Micro-Doppler Effect
        in Radar".
    """
    start, end = points[_FROM], points[_TO]
    axis = end - start
    position = start + _WHERE[:, None, None] * axis
    sight = np.asarray(radar_position_m, dtype=float)[:, None] - position
    distance = np.sqrt(np.einsum("kit,kit->kt", sight, sight))
    along = np.einsum("kit,kit->kt", sight, axis)
    cos2 = along**2 / (distance**2 * np.einsum("kit,kit->kt", axis, axis))
    a2 = (_ACROSS_M**2)[:, None]
    c2 = np.array([(walker.length_m(part) / 2) ** 2 for _, part, _ in _SEGMENTS])[:, None]
    cross_section = np.pi * a2**2 * c2 / (a2 + (c2 - a2) * cos2) ** 2
    gain = 10 ** (np.array(walker.part_gain_db)[_PART] / 10)
    return distance, cross_section * gain[:, None]


def coherent_sum(distance_m: Array, cross_section_m2: Array, wavelength_m: float) -> Array:
    """Sum echoes coherently, with their phases: ``sum_k sqrt(sigma_k) exp(-4 pi i r_k / wavelength)``.

    A target that approaches at ``v`` gives the positive frequency ``2 v / wavelength``.

    Args:
        distance_m: Distances, shape ``(K, T)``.
        cross_section_m2: Radar cross-sections, shape ``(K, T)``.
        wavelength_m: Wavelength of the carrier.

    Returns:
        The echo, shape ``(T,)``, complex, in metres (the square root of a cross-section).
    """
    turn = distance_m * (-4 * np.pi / wavelength_m)
    amplitude = np.sqrt(cross_section_m2)
    return np.sum(amplitude * np.cos(turn), axis=0) + 1j * np.sum(amplitude * np.sin(turn), axis=0)


def simulate_signal(
    walker: Walker,
    walk: Walk,
    radar: Radar,
    num_samples: int,
    *,
    activity: str = "walk",
    channel: Channel | None = None,
) -> Array:
    """Simulate the radar signal of a recording (IQ), one complex sample for each pulse.

    The body is at ``walk.distance_m`` in the middle of the recording; the real part is the in-phase component. Without
    a channel the amplitude is the square root of the cross-section, without loss over distance, and the noise is as
    strong as ``walk.snr_db`` says. With one, :meth:`Channel.receive` adds distance, clutter, noise and gain.

    Args:
        walker: The person.
        walk: Speed, phase, aspect and distance; of any activity, whose speed and phase are its own.
        radar: The radar.
        num_samples: Number of pulses T; the recording lasts ``num_samples / radar.prf_hz`` seconds.
        activity: What the person does, one of ``ACTIVITIES``.
        channel: Receiver and surroundings of a session; None for neither.

    Returns:
        Complex signal with noise, shape ``(T,)``, complex128.

    Raises:
        ConfigError: If ``num_samples`` is not positive, the activity is unknown, or the speed is out of range.
    """
    check_positive("num_samples", num_samples)
    time_sec = np.arange(num_samples) / radar.prf_hz
    motion = motion_of(activity, walker, Pace(walk.speed_factor, walk.initial_phase, walk.start_sec))
    ahead, left = line_of_sight(walk.aspect_deg)
    middle_m = motion.speed_m_s * time_sec[-1] / 2
    radar_position_m = np.array(
        [middle_m + walk.distance_m * ahead, walk.distance_m * left, radar.height_m - walker.hip_height_m]
    )
    signal = np.empty(num_samples, dtype=complex)
    distance_m = np.empty(num_samples)
    for first in range(0, num_samples, CHUNK_SAMPLES):
        part = slice(first, first + CHUNK_SAMPLES)
        distances, cross_sections = segment_echoes(walker, motion.points(time_sec[part]), radar_position_m)
        distance_m[part] = distances[_TORSO]
        signal[part] = coherent_sum(distances, cross_sections, radar.wavelength_m)
    if walk.fade_db:
        swing = 0.5 - 0.5 * np.cos(2 * np.pi * (walk.start_sec + time_sec) / walk.fade_period_sec)
        signal *= 10 ** (-walk.fade_db * swing / 20)
    if walk.snr_db < math.inf:
        power = float(np.mean(np.abs(signal) ** 2)) * 10 ** (-walk.snr_db / 10)
        noise = np.random.default_rng(walk.noise_seed).standard_normal((2, num_samples))
        signal += math.sqrt(power / 2) * (noise[0] + 1j * noise[1])
    if channel is not None:
        signal = channel.receive(signal, distance_m, carrier_hz=radar.carrier_hz, prf_hz=radar.prf_hz)
    return signal
