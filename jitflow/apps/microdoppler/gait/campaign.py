"""Campaigns of recordings: sessions in which a person, the place and the receiver differ from the last time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.gait.activities import ACTIVITIES, motion_of
from jitflow.apps.microdoppler.gait.activities.motion import Motion, Pace
from jitflow.apps.microdoppler.gait.body import PARTS, Walker
from jitflow.apps.microdoppler.gait.channel import Channel
from jitflow.apps.microdoppler.gait.checks import check_count, check_pair, check_range
from jitflow.apps.microdoppler.gait.echo import Array, Radar, Walk, simulate_signal
from jitflow.apps.microdoppler.gait.population import Variation, draw_walk
from jitflow.core.seeding import mix_seeds
from jitflow.errors import ConfigError, unknown_name

# Separate the random streams of sessions and of the recordings in them from those of users and walks (1 to 3).
_SESSION, _RECORDING = 4, 5
# Range of relative velocities in which every activity is a human one.
_VELOCITIES = (0.6, 2.8)
# Nobody comes nearer to the radar than this during a recording.
_NEAREST_M = 1.5


@dataclass(frozen=True)
class Campaign:
    """Sessions of every person, and what changes between them. Pairs are limits of uniform distributions.

    Between sessions a person wears other clothes, is in another hurry and may carry something; the lane, the clutter
    and the receiver are others. Within a session these stay, so recordings of one session are more alike than a
    person's own of two: whoever splits them at random measures the session as well.

    Args:
        num_sessions: Sessions of each person.
        activities: What people do, of ``ACTIVITIES``, in turn.
        strength: Factor of all differences between sessions; with 0 sessions are alike.
        gain_db: Largest gain of a session's receiver against the mean, either way, dB.
        drift_db: Largest change of the gain from the first to the last recording of a session, dB.
        noise_floor_db: Noise floors, dB re 1 m^2 in the radar's whole band (:class:`Channel`).
        clutter_db: Powers of the clutter, dB re 1 m^2.
        aspect_deg: Largest angle of a session's lane to the line of sight, degrees.
        aspect_jitter_deg: Largest difference of a recording from it, degrees.
        speed: Largest relative change of the relative velocity from session to session.
        clothes_db: Largest change of the echo of each part of the body, dB.
        arm_swing: Largest relative change of the arm swing: bags, pockets.
        lean_deg: Largest change of the trunk's lean, degrees.

    Raises:
        ConfigError: If a number is out of range or an activity unknown.
    """

    num_sessions: int = 4
    activities: tuple[str, ...] = ("walk",)
    strength: float = 1.0
    gain_db: float = 3.0
    drift_db: float = 3.0
    noise_floor_db: tuple[float, float] = (-32.0, -20.0)
    clutter_db: tuple[float, float] = (-30.0, -5.0)
    aspect_deg: float = 25.0
    aspect_jitter_deg: float = 5.0
    speed: float = 0.08
    clothes_db: float = 4.0
    arm_swing: float = 0.4
    lean_deg: float = 3.0

    def __post_init__(self) -> None:
        check_count("num_sessions", self.num_sessions, most=10_000)
        if not self.activities or len(set(self.activities)) < len(self.activities):
            raise ConfigError(f"activities must be different ones of {', '.join(ACTIVITIES)}; got {self.activities}")
        for activity in self.activities:
            if activity not in ACTIVITIES:
                raise unknown_name("activity", activity, ACTIVITIES)
        check_range("strength", self.strength, 0, 3)
        check_range("gain_db", self.gain_db, 0, 30, unit="dB")
        check_range("drift_db", self.drift_db, 0, 30, unit="dB")
        check_pair("noise_floor_db", self.noise_floor_db, -200, 60, unit="dB")
        check_pair("clutter_db", self.clutter_db, -200, 60, unit="dB")
        check_range("aspect_deg", self.aspect_deg, 0, 90, unit="degrees")
        check_range("aspect_jitter_deg", self.aspect_jitter_deg, 0, 90, unit="degrees")
        check_range("speed", self.speed, 0, 0.3)
        check_range("clothes_db", self.clothes_db, 0, 15, unit="dB")
        check_range("arm_swing", self.arm_swing, 0, 1)
        check_range("lean_deg", self.lean_deg, 0, 12, unit="degrees")


@dataclass(frozen=True)
class Session:
    """One visit of a person to the radar.

    Attributes:
        walker: The person as of that day.
        channel: Receiver and clutter when the session begins.
        drift_db: Change of the gain until it ends.
        aspect_deg: Angle of the lane to the line of sight.
    """

    walker: Walker
    channel: Channel
    drift_db: float
    aspect_deg: float


@dataclass(frozen=True)
class Trial:
    """One radar recording: who does what, where, and what the receiver adds.

    Attributes:
        activity: One of ``ACTIVITIES``.
        walker: The person as of that day.
        walk: Speed, phase, aspect and distance.
        channel: Receiver and surroundings; None for neither.
    """

    activity: str
    walker: Walker
    walk: Walk
    channel: Channel | None = None

    @property
    def motion(self) -> Motion:
        """The motion of the body, with its true speed and repetitions."""
        return motion_of(self.activity, self.walker, pace_of(self.walk))

    def signal(self, radar: Radar, num_samples: int) -> Array:
        """Simulate the recording (IQ): complex, shape ``(num_samples,)``; see :func:`simulate_signal`.

        Args:
            radar: The radar; the same trial may be seen by several.
            num_samples: Number of pulses.
        """
        return simulate_signal(self.walker, self.walk, radar, num_samples, activity=self.activity, channel=self.channel)


def pace_of(walk: Walk) -> Pace:
    """Return speed and timing of a walk's recording."""
    return Pace(walk.speed_factor, walk.initial_phase, walk.start_sec)


def draw_session(seed: int, user: int, session: int, walker: Walker, campaign: Campaign) -> Session:
    """Draw a session at random, a function of seed, user and session alone.

    Args:
        seed: Seed of the set.
        user: Index of the user, from 0.
        session: Index of the session, from 0.
        walker: The person as usual.
        campaign: Differences between sessions.

    Returns:
        The session.

    Raises:
        ConfigError: If a number is out of range.
    """
    check_count("session", session, least=0)
    generator = np.random.default_rng(mix_seeds(seed, _SESSION, user, session))
    change = generator.uniform(-1, 1, size=6) * campaign.strength
    clothes = generator.uniform(-1, 1, size=len(PARTS)) * campaign.strength * campaign.clothes_db
    floor, clutter = (
        float(sum(limits) / 2 + (limits[1] - limits[0]) / 2 * campaign.strength * generator.uniform(-1, 1))
        for limits in (campaign.noise_floor_db, campaign.clutter_db)
    )
    dressed = dataclasses.replace(
        walker,
        relative_velocity=float(np.clip(walker.relative_velocity * (1 + campaign.speed * change[0]), *_VELOCITIES)),
        arm_swing_gain=max(0.0, float(walker.arm_swing_gain * (1 + campaign.arm_swing * change[1]))),
        trunk_lean_deg=float(walker.trunk_lean_deg + campaign.lean_deg * change[2]),
        part_gain_db=tuple(float(gain) for gain in np.asarray(walker.part_gain_db) + clothes),
    )
    channel = Channel(gain_db=float(campaign.gain_db * change[3]), noise_floor_db=floor, clutter_db=clutter)
    return Session(dressed, channel, float(campaign.drift_db * change[4]), float(campaign.aspect_deg * change[5]))


def draw_trial(
    place: tuple[int, int, int, int],
    session: Session,
    activity: str,
    campaign: Campaign,
    variation: Variation,
    duration_sec: float,
) -> Trial:
    """Draw a radar recording of a session at random, a function of its place in the campaign alone.

    Args:
        place: Seed of the set, and user, session and number of the activity's recording, from 0.
        session: The session.
        activity: What the person does.
        campaign: Differences between recordings of a session.
        variation: Variation between walks; its aspect, noise and body are the campaign's and the session's.
        duration_sec: Duration of the recording; people start far enough away to reach its end before the radar.

    Returns:
        The trial.

    Raises:
        ConfigError: If a number is out of range.
    """
    seed, user, number, index = place
    key = mix_seeds(_RECORDING, number, list(ACTIVITIES).index(activity), index)
    jitter = dataclasses.replace(variation, aspect_deg=campaign.aspect_jitter_deg)
    walk = draw_walk(seed, user, key, variation=jitter)
    speed = motion_of(activity, session.walker, pace_of(walk)).speed_m_s
    walk = dataclasses.replace(
        walk,
        aspect_deg=walk.aspect_deg + session.aspect_deg,
        distance_m=max(walk.distance_m, speed * duration_sec / 2 + _NEAREST_M),
        snr_db=float("inf"),
    )
    # The moment of the recording in its session, in [0, 1).
    moment = mix_seeds(seed, user, key) / (1 << 63)
    channel = dataclasses.replace(
        session.channel,
        gain_db=session.channel.gain_db + session.drift_db * moment,
        noise_seed=walk.noise_seed,
    )
    return Trial(activity, session.walker, walk, channel)
