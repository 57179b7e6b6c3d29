"""Simulated raw radar recordings of walking people, in the format of any radar that can be read."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.gait import (
    Variation,
    Walk,
    Walker,
    body_points,
    cycle_duration_sec,
    draw_walk,
    draw_walkers,
    segment_echoes,
    torso_velocity_m_s,
    true_step_frequency_hz,
    walking_speed_m_s,
)
from jitflow.apps.microdoppler.gait.body import line_of_sight
from jitflow.apps.microdoppler.gait.dataset import TRUTH_NAME
from jitflow.apps.microdoppler.manifest import MANIFEST
from jitflow.apps.microdoppler.recordings.formats import FORMATS, SUFFIXES, write_recording
from jitflow.apps.microdoppler.recordings.radar import RADAR_NAME, RecordingRadar
from jitflow.core.seeding import mix_seeds
from jitflow.errors import ConfigError, check_count
from jitflow.io.files import read_json, user_path, write_json, write_text
from jitflow.io.folder_lock import locked
from jitflow.io.parallel import map_processes

log = logging.getLogger(__name__)

Array = np.ndarray
Echoes = Callable[[Array], tuple[Array, Array]]
"""Distances (m) and radar cross-sections (m^2) of K scatterers at times (s) of shape ``(P,)``: each ``(K, P)``."""
COUNTS_PER_M = 1000.0
"""Amplitude in the file of an echo of 1 m^2."""
# A wall behind the walk, 13 dB above a torso.
_WALL_M2, _WALL_BEHIND_M = 4.0, 1.0
_RADAR_HEIGHT_M = 1.0
# Distance of the nearest point of a walk: between these, as the walk's own distance lies within 6 to 12 m.
_NEAREST_M = (2.0, 5.0)
_BLOCK_VALUES = 1 << 18
# Header of an Ancortek file.
_ANCORTEK_580 = {"carrier_hz": 5.8e9, "pulses_per_sec": 1000.0, "samples": 128, "bandwidth_hz": 400e6}


@dataclass(frozen=True)
class RecordingPlan:
    """Simulated radar recordings: walkers and the length of their walks.

    Attributes:
        num_users: Number of people.
        per_user: Recordings of each.
        duration_sec: Length of a recording.
        seed: Seed of everything.
        variation: Variation of people and walks.
        min_cadence_gap: Minimum relative difference between the users' step frequencies.
    """

    num_users: int
    per_user: int
    duration_sec: float
    seed: int = 0
    variation: Variation = dataclasses.field(default_factory=Variation)
    min_cadence_gap: float = 0.0

    def __post_init__(self) -> None:
        check_count("num_users", self.num_users, most=10_000)
        check_count("recordings.per_user", self.per_user, most=100_000)
        if not 0.5 <= self.duration_sec <= 600:
            raise ConfigError(f"recordings.length_sec must lie in [0.5, 600]; got {self.duration_sec}")


def write_recordings(
    out: str | Path,
    radar: RecordingRadar,
    plan: RecordingPlan,
    *,
    num_processes: int = 1,
    on_recording: Callable[[int, int], None] | None = None,
) -> Path:
    """Simulate raw recordings of walks, or finish an interrupted simulation.

    The folder gets ``ID_1/rec01.bin`` and so on, ``radar.yaml``, ``manifest.csv`` (path, user, recording) and
    ``simulation.json`` with the true gait of each recording.

    Args:
        out: The folder; created if missing.
        radar: The radar; what only the header of an Ancortek file states is that of the SDR-KIT 580.
        plan: People and recordings.
        num_processes: Number of processes.
        on_recording: Called with (recordings done, all recordings) at the start and after some, in this process.

    Returns:
        The folder.

    Raises:
        ConfigError: If an argument is invalid, or the folder holds other recordings.
    """
    folder = user_path(out)
    radar = _complete(radar)
    walkers = draw_walkers(plan.num_users, plan.seed, variation=plan.variation, min_cadence_gap=plan.min_cadence_gap)
    suffix = SUFFIXES[radar.format or "npy"]
    digits = max(2, len(str(plan.per_user)))
    named = [
        (f"ID_{user + 1}/rec{number + 1:0{digits}d}{suffix}", user, _draw(plan, walkers[user], user, number))
        for user in range(plan.num_users)
        for number in range(plan.per_user)
    ]
    _check_distances(radar, plan, [(walkers[user], walk) for _, user, walk in named])
    parameters = {"radar": radar.to_record(), "plan": _plain(dataclasses.asdict(plan))}
    with locked(folder):
        _check_same(folder, parameters)
        samples = [
            {
                "file": name,
                "user_id": user + 1,
                "step_frequency_hz": true_step_frequency_hz(walkers[user], walk),
                "torso_velocity_m_s": torso_velocity_m_s(walkers[user], walk),
                **_plain(dataclasses.asdict(walk)),
            }
            for name, user, walk in named
        ]
        write_json(folder / TRUTH_NAME, {"parameters": parameters, "samples": samples})
        write_text(folder / RADAR_NAME, radar.to_yaml())
        tasks = [(folder / name, walkers[user], walk) for name, user, walk in named if not (folder / name).is_file()]
        done = len(named) - len(tasks)
        if on_recording:
            on_recording(done, len(named))
        written = map_processes(
            functools.partial(_write, radar, plan.duration_sec),
            tasks,
            workers=max(1, min(num_processes, len(tasks))),
            on_items=lambda count: on_recording(done + count, len(named)) if on_recording else None,
        )
        # Closed at once after an error, so that no process goes on.
        with contextlib.closing(written):
            for _ in written:
                pass
        text = io.StringIO()
        rows = [(name, user + 1, Path(name).with_suffix("").as_posix()) for name, user, _ in named]
        csv.writer(text, lineterminator="\n").writerows([("path", "user", "recording"), *rows])
        write_text(folder / f"{MANIFEST}.csv", text.getvalue())
    return folder


def simulate_samples(
    radar: RecordingRadar, echoes: Echoes, num_pulses: int, *, noise_power: float = 0.0, seed: int = 0
) -> Iterator[Array]:
    """Simulate the samples that a radar records of moving scatterers, which stand still during a pulse.

    Args:
        radar: The radar; carrier, rate of pulses, samples and, for several samples, bandwidth must be known.
        echoes: Distances and cross-sections of the scatterers at given times.
        num_pulses: Pulses of all transmitters.
        noise_power: Mean squared amplitude of white noise in each sample, as that of an echo of so many m^2.
        seed: Seed of the noise.

    Yields:
        Samples in blocks, ``(P', R, N)``, complex, or real for ``iq: real``; ``COUNTS_PER_M`` for an echo of 1 m^2.
    """
    num_samples, rate_hz = int(radar.known("samples")), radar.known("pulses_per_sec")
    # The carrier is that of the middle of the sweep.
    middle = (np.arange(num_samples) - (num_samples - 1) / 2) / num_samples
    random = np.random.default_rng(seed)
    each = max(1, _BLOCK_VALUES // (num_samples * radar.receivers))
    for first in range(0, num_pulses, each):
        pulse = np.arange(first, min(first + each, num_pulses))
        time = pulse / rate_hz
        if radar.frame_pulses is not None and radar.frame_sec is not None:
            time = pulse // radar.frame_pulses * radar.frame_sec + pulse % radar.frame_pulses / rate_hz
        distance, cross_section = echoes(time)
        turns = 2 * distance / radar.wavelength_m
        beats = distance / radar.range_step_m if num_samples > 1 else np.zeros_like(distance)
        block = np.zeros((len(pulse), num_samples), complex)
        for scatterer in range(len(distance)):
            phase = turns[scatterer][:, None] + beats[scatterer][:, None] * middle
            amplitude = np.sqrt(cross_section[scatterer])[:, None]
            block += amplitude * np.exp(-2j * np.pi * radar.doppler_sign * phase)
        samples = np.repeat(block[:, None], radar.receivers, axis=1)
        if noise_power:
            noise = random.standard_normal((2, *samples.shape)) * math.sqrt(noise_power / 2)
            samples = samples + noise[0] + 1j * noise[1]
        yield COUNTS_PER_M * (samples.real if radar.iq == "real" else samples)


def walk_echoes(walker: Walker, walk: Walk, duration_sec: float) -> Echoes:
    """Return the echoes of a walk, and of a wall behind it, as a function of time.

    Args:
        walker: The walker.
        walk: The walk; ``distance_m`` and ``aspect_deg`` hold in the middle of the recording.
        duration_sec: Length of the recording.
    """
    speed = walking_speed_m_s(walker, walk)
    rv = walker.relative_velocity * walk.speed_factor
    phase = walk.initial_phase + walk.start_sec / cycle_duration_sec(rv)
    ahead, left = line_of_sight(walk.aspect_deg)
    radar_m = np.array(
        [
            speed * duration_sec / 2 + walk.distance_m * ahead,
            walk.distance_m * left,
            _RADAR_HEIGHT_M - walker.hip_height_m,
        ]
    )
    wall_m = walk.distance_m + speed * duration_sec / 2 + _WALL_BEHIND_M

    def echoes(time_sec: Array) -> tuple[Array, Array]:
        points = body_points(walker, time_sec, speed_factor=walk.speed_factor, initial_phase=phase)
        distance, cross_section = segment_echoes(walker, points, radar_m)
        wall = np.full((1, len(time_sec)), 1.0)
        return np.concatenate([distance, wall_m * wall]), np.concatenate([cross_section, _WALL_M2 * wall])

    return echoes


def _write(
    radar: RecordingRadar, duration_sec: float, task: tuple[Path, Walker, Walk], tick: Callable[[], None]
) -> None:
    path, walker, walk = task
    echoes = walk_echoes(walker, walk, duration_sec)
    turn = radar.frame_pulses or radar.transmitters
    num_pulses = max(1, round(duration_sec * radar.known("pulses_per_sec") / turn)) * turn
    if radar.frame_sec is not None:
        num_pulses = max(1, int(duration_sec / radar.frame_sec)) * turn
    # The range FFT collects the echo of all samples; the wall is no part of the walk.
    power = float(echoes(np.linspace(0, duration_sec, 100))[1][:-1].sum(axis=0).mean())
    noise = power * radar.known("samples") * 10 ** (-walk.snr_db / 10)
    blocks = simulate_samples(radar, echoes, num_pulses, noise_power=noise, seed=walk.noise_seed)
    write_recording(path, radar, blocks)
    tick()


def _complete(radar: RecordingRadar) -> RecordingRadar:
    """Return the radar with every number that the simulation needs."""
    if radar.format == "ancortek":
        missing = {name: value for name, value in _ANCORTEK_580.items() if getattr(radar, name) is None}
        radar = dataclasses.replace(radar, **missing)  # type: ignore[arg-type]
    if radar.format is None:
        raise ConfigError(f"format of the radar is unknown; state one of {', '.join(FORMATS.values())} in its file")
    for name in ("carrier_hz", "pulses_per_sec", "samples"):
        radar.known(name)
    radar.check()
    return radar


def _draw(plan: RecordingPlan, walker: Walker, user: int, number: int) -> Walk:
    """Draw a walk whose nearest point is at a distance in front of the radar."""
    walk = draw_walk(mix_seeds(plan.seed, 1), user, number, variation=plan.variation)
    low, high = plan.variation.distance_m
    share = (walk.distance_m - low) / (high - low) if high > low else 0.5
    nearest = _NEAREST_M[0] + share * (_NEAREST_M[1] - _NEAREST_M[0])
    half_way = walking_speed_m_s(walker, walk) * plan.duration_sec / 2
    return dataclasses.replace(walk, distance_m=nearest + half_way, fade_db=0.0)


def _check_distances(radar: RecordingRadar, plan: RecordingPlan, walks: list[tuple[Walker, Walk]]) -> None:
    """Raise ConfigError unless the radar sees every walk as a whole."""
    if radar.samples == 1:
        return
    farthest = max(
        walk.distance_m + walking_speed_m_s(walker, walk) * plan.duration_sec / 2 + _WALL_BEHIND_M
        for walker, walk in walks
    )
    seen = radar.num_range_bins * radar.range_step_m
    if farthest > seen:
        raise ConfigError(
            f"people walk up to {farthest:.1f} m away in {plan.duration_sec:g} s, but the radar tells {seen:.1f} m "
            "apart; shorten recordings.length_sec, or lower bandwidth_hz"
        )


def _check_same(folder: Path, parameters: dict[str, Any]) -> None:
    """Raise ConfigError if the folder holds other recordings."""
    path = folder / TRUTH_NAME
    found = read_json(path) if path.is_file() else None
    if found is None and any(not item.name.startswith(".") for item in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; name an empty folder")
    if found is not None and (not isinstance(found, dict) or found.get("parameters") != parameters):
        raise ConfigError(f"{folder} holds a simulation with other parameters; name another folder")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as they are read back from JSON."""
    return {
        name: _plain(value)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else None
        if isinstance(value, float) and math.isinf(value)
        else value
        for name, value in values.items()
    }
