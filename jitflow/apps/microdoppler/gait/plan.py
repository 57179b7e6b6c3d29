"""Plan of a simulated data set: which user does what in which session, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jitflow.apps.microdoppler.gait.body import Walker
from jitflow.apps.microdoppler.gait.campaign import Campaign, Trial, draw_session, draw_trial
from jitflow.apps.microdoppler.gait.population import Variation, draw_walk


@dataclass(frozen=True)
class PlannedSample:
    """A spectrogram to simulate. Users, samples and sessions are counted from 0.

    Attributes:
        user: Index of the user.
        index: Index of the sample among the user's.
        split: ``train`` or ``val``.
        trial: What is recorded.
        session: Index of the session; None without sessions.
        recording: Name of the recording in its session, such as ``walk_001``; empty without sessions.
    """

    user: int
    index: int
    split: str
    trial: Trial
    session: int | None = None
    recording: str = ""

    def file_name(self, *, flat: bool) -> str:
        """Return the path of the spectrogram in its data set, without a suffix.

        Args:
            flat: Whether the folder of a split has no folders for users.
        """
        user, sample = self.user + 1, self.index + 1
        if self.session is None:
            name = f"user_{user:02d}_sample_{sample:03d}" if flat else f"ID_{user}/ID_{user}_{sample:04d}"
        else:
            own = f"session{self.session + 1}_{self.recording}"
            name = f"user_{user:02d}_{own}" if flat else f"ID_{user}/ID_{user}_{own}"
        return f"{self.split}/{name}"


def plan_samples(
    walkers: Sequence[Walker],
    images_per_user: int,
    val_fraction: float,
    seed: int,
    variation: Variation,
    campaign: Campaign | None,
    duration_sec: float,
) -> Iterator[PlannedSample]:
    """Plan the samples of a data set, users in order.

    A recording depends on the seed, its user, session, activity and number alone, not on how many there are.

    Args:
        walkers: The users.
        images_per_user: Samples of each.
        val_fraction: Share of each user's samples in ``val``; of a campaign the share of the sessions, the last ones.
        seed: Seed of the set.
        variation: Variation between walks.
        campaign: Sessions and activities; None for walks without sessions.
        duration_sec: Duration of a recording.

    Returns:
        The samples.
    """
    for user, walker in enumerate(walkers):
        if campaign is None:
            first_val = images_per_user - num_held_out(images_per_user, val_fraction)
            for index in range(images_per_user):
                trial = Trial("walk", walker, draw_walk(seed, user, index, variation=variation))
                yield PlannedSample(user, index, "train" if index < first_val else "val", trial)
            continue
        first_val = campaign.num_sessions - num_held_out(campaign.num_sessions, val_fraction)
        edges = [images_per_user * i // campaign.num_sessions for i in range(campaign.num_sessions + 1)]
        for number in range(campaign.num_sessions):
            session = draw_session(seed, user, number, walker, campaign)
            for i in range(edges[number + 1] - edges[number]):
                turn, which = divmod(i, len(campaign.activities))
                activity = campaign.activities[which]
                trial = draw_trial((seed, user, number, turn), session, activity, campaign, variation, duration_sec)
                split = "train" if number < first_val else "val"
                yield PlannedSample(user, edges[number] + i, split, trial, number, f"{activity}_{turn + 1:03d}")


def num_held_out(num: int, val_fraction: float) -> int:
    """Return how many of a user's samples or sessions are for validation: at least one, if any."""
    return max(1, round(num * val_fraction)) if val_fraction else 0
