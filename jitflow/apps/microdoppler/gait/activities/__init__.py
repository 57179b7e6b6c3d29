"""Activities of a simulated person in front of the radar: the motion of the body's points over time."""

from __future__ import annotations

from collections.abc import Callable

from jitflow.apps.microdoppler.gait.activities.crouch import crouch
from jitflow.apps.microdoppler.gait.activities.fall import fall
from jitflow.apps.microdoppler.gait.activities.motion import Motion, Pace
from jitflow.apps.microdoppler.gait.activities.run import run
from jitflow.apps.microdoppler.gait.activities.walk import walk
from jitflow.apps.microdoppler.gait.activities.wave import wave
from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.errors import unknown_name

ACTIVITIES: dict[str, Callable[[Walker, Pace], Motion]] = {
    "walk": walk,
    "run": run,
    "crouch": crouch,
    "wave": wave,
    "fall": fall,
}
"""Motions by the name of the activity. The order is part of every simulated campaign: append."""


def motion_of(activity: str, walker: Walker, pace: Pace) -> Motion:
    """Return the motion of a simulated walker during an activity.

    Args:
        activity: One of ``ACTIVITIES``.
        walker: The person.
        pace: Speed, phase and start.

    Raises:
        ConfigError: If the activity is unknown, or the speed out of the model's range.
    """
    if activity not in ACTIVITIES:
        raise unknown_name("activity", activity, ACTIVITIES)
    return ACTIVITIES[activity](walker, pace)
