"""Random walkers and walks: bodies, habits and recordings drawn from a seed, in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jitflow.apps.microdoppler.gait.body import PARTS, Walker
from jitflow.apps.microdoppler.gait.checks import check_count, check_pair, check_range
from jitflow.apps.microdoppler.gait.echo import Walk
from jitflow.core.seeding import mix_seeds
from jitflow.errors import ConfigError

Direction = Literal["toward", "away", "both"]
# Outside this range of relative velocities the model is not a walk.
_MIN_VELOCITY, _MAX_VELOCITY = 0.6, 2.8
# Separate the random streams of users, samples and cadences.
_USER, _SAMPLE, _CADENCE = 1, 2, 3


@dataclass(frozen=True)
class Variation:
    """Variation between walkers and between the walks of one walker. Pairs are limits of uniform distributions.

    Args:
        height_m: Body heights, m.
        relative_velocity: Usual relative velocities, 1/s, within [0.6, 2.8].
        habit_strength: Factor of the range of all other differences between people (lengths of limbs +-4 %, gains
            of hip and knee +-12 %, of the arm swing +-40 %, left against right +-6 % and +-1.5 % of a cycle, lean
            -2 to 6 degrees, echo of each part +-3 dB); with 0 bodies differ in height and cadence alone.
        speed_jitter: Largest relative change of the relative velocity from walk to walk; the step frequency
            changes by half as much.
        aspect_deg: Largest angle between the walk and the line of sight, degrees.
        direction: Whether people walk ``"toward"`` the radar, ``"away"``, or either way by chance (``"both"``).
        distance_m: Distances in the middle of a recording, m.
        start_sec: Times between the start of a walk and that of its recording, s.
        snr_db: Ratios of mean echo to noise in the radar's whole band, dB.
        fade_db: Depths of a slow fade, dB.

    Raises:
        ConfigError: If a number is out of range.
    """

    height_m: tuple[float, float] = (1.55, 1.92)
    relative_velocity: tuple[float, float] = (1.1, 1.9)
    habit_strength: float = 1.0
    speed_jitter: float = 0.03
    aspect_deg: float = 20.0
    direction: Direction = "toward"
    distance_m: tuple[float, float] = (6.0, 12.0)
    start_sec: tuple[float, float] = (0.0, 10.0)
    snr_db: tuple[float, float] = (18.0, 28.0)
    fade_db: tuple[float, float] = (0.0, 3.0)

    def __post_init__(self) -> None:
        check_pair("height_m", self.height_m, 0.8, 2.5, unit="m")
        check_pair("relative_velocity", self.relative_velocity, _MIN_VELOCITY, _MAX_VELOCITY, unit="1/s")
        check_range("habit_strength", self.habit_strength, 0, 3)
        check_range("speed_jitter", self.speed_jitter, 0, 0.05)
        check_range("aspect_deg", self.aspect_deg, 0, 90, unit="degrees")
        if self.direction not in ("toward", "away", "both"):
            raise ConfigError(f"direction must be 'toward', 'away' or 'both'; got {self.direction!r}")
        check_pair("distance_m", self.distance_m, 0.5, 1e4, unit="m")
        check_pair("start_sec", self.start_sec, 0, 1e6, unit="s")
        check_pair("snr_db", self.snr_db, -60, 200, unit="dB")
        check_pair("fade_db", self.fade_db, 0, 60, unit="dB")


def draw_walkers(
    num_users: int, seed: int, *, variation: Variation | None = None, min_cadence_gap: float = 0.0
) -> list[Walker]:
    """Draw the walkers of a data set at random.

    A user's body and habits depend on the seed and the user alone; so does the cadence, unless a minimum gap between
    all users is requested.

    Args:
        num_users: Number of walkers.
        seed: Seed of the set.
        variation: Variation between walkers; None takes the default.
        min_cadence_gap: Minimum difference between any two users' usual step frequencies, relative to the lower: 0.1 is
            10 %. The range of relative velocities is widened about its middle if necessary, up to [0.6, 2.8], which
            suffices for 9 users at 10 % or 16 at 5 %.

    Returns:
        One walker for each user.

    Raises:
        ConfigError: If the gap is too large for the users, or a number is out of range.
    """
    check_count("num_users", num_users)
    _check_seed(seed)
    check_range("min_cadence_gap", min_cadence_gap, 0, 1)
    variation = variation or Variation()
    spread = _spread_relative_velocities(num_users, seed, variation, min_cadence_gap) if min_cadence_gap else None
    walkers = []
    for user in range(num_users):
        generator = np.random.default_rng(mix_seeds(seed, _USER, user))
        height = _uniform(generator, variation.height_m)
        own = _uniform(generator, variation.relative_velocity)
        habits = generator.uniform(-1, 1, size=14 + len(PARTS)) * variation.habit_strength
        scales, gains, gain_db = 1 + 0.04 * habits[:7], habits[7:14], 3.0 * habits[14:]
        walkers.append(
            Walker(
                height_m=height,
                relative_velocity=spread[user] if spread else own,
                torso_scale=float(scales[0]),
                shoulder_scale=float(scales[1]),
                upper_leg_scale=float(scales[2]),
                lower_leg_scale=float(scales[3]),
                foot_scale=float(scales[4]),
                upper_arm_scale=float(scales[5]),
                lower_arm_scale=float(scales[6]),
                hip_gain=float(1 + 0.12 * gains[0]),
                knee_gain=float(1 + 0.12 * gains[1]),
                elbow_gain=float(1 + 0.3 * gains[2]),
                arm_swing_gain=max(0.0, float(1 + 0.4 * gains[3])),
                asymmetry=float(0.06 * gains[4]),
                phase_asymmetry_cycles=float(0.015 * gains[5]),
                trunk_lean_deg=float(2 * variation.habit_strength + 4 * gains[6]),
                part_gain_db=tuple(float(gain) for gain in gain_db),
            )
        )
    return walkers


def draw_walk(seed: int, user: int, sample: int, *, variation: Variation | None = None) -> Walk:
    """Draw a walk of a user at random, a function of seed, user and sample alone.

    Args:
        seed: Seed of the set.
        user: Index of the user, from 0.
        sample: Index of the walk, from 0.
        variation: Variation between walks; None takes the default.

    Returns:
        The walk.

    Raises:
        ConfigError: If a number is out of range.
    """
    _check_seed(seed)
    check_count("user", user, least=0)
    check_count("sample", sample, least=0)
    variation = variation or Variation()
    generator = np.random.default_rng(mix_seeds(seed, _SAMPLE, user, sample))
    initial_phase = float(generator.uniform())
    start_sec = _uniform(generator, variation.start_sec)
    jitter, heading, side = generator.uniform(-1, 1, size=3)
    away = variation.direction == "away" or (variation.direction == "both" and side > 0)
    return Walk(
        initial_phase=initial_phase,
        start_sec=start_sec,
        speed_factor=float(1 + variation.speed_jitter * jitter),
        aspect_deg=float(variation.aspect_deg * heading) + (180.0 if away else 0.0),
        distance_m=_uniform(generator, variation.distance_m),
        snr_db=_uniform(generator, variation.snr_db),
        fade_db=_uniform(generator, variation.fade_db),
        fade_period_sec=_uniform(generator, (4.0, 8.0)),
        noise_seed=int(generator.integers(1 << 62)),
    )


def _spread_relative_velocities(num_users: int, seed: int, variation: Variation, gap: float) -> list[float]:
    """Draw relative velocities whose cadences have a minimum gap, in random order."""
    # The cadence is proportional to the square root of the relative velocity. A tiny margin absorbs rounding.
    apart = 2 * math.log1p(gap) * (1 + 1e-9)
    needed = apart * (num_users - 1)
    low, high = (math.log(value) for value in variation.relative_velocity)
    least, most = math.log(_MIN_VELOCITY), math.log(_MAX_VELOCITY)
    if needed > most - least:
        room = int((most - least) / apart) + 1
        raise ConfigError(
            f"min_cadence_gap {gap:g} has room for {room} users at human speeds, not {num_users}; lower one of them"
        )
    # A tenth of slack, so that sets with many users still differ.
    length = min(max(high - low, 1.1 * needed), most - least)
    low = min(max((low + high - length) / 2, least), most - length)
    generator = np.random.default_rng(mix_seeds(seed, _CADENCE, num_users))
    places = np.sort(generator.uniform(0, length - needed, size=num_users)) + apart * np.arange(num_users)
    values = np.clip(np.exp(low + generator.permutation(places)), _MIN_VELOCITY, _MAX_VELOCITY)
    return [float(value) for value in values]


def _uniform(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(generator.uniform(*limits))


def _check_seed(seed: int) -> None:
    check_count("seed", seed, least=0)
