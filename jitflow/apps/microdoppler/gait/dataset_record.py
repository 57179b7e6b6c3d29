"""Record of a simulated data set: its parameters, its walkers, and the true gait of every spectrogram."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from jitflow.apps.microdoppler.gait.campaign import Campaign
from jitflow.apps.microdoppler.gait.checks import check_count
from jitflow.apps.microdoppler.gait.echo import Radar, radar_for_carrier
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, settings_for_radar
from jitflow.apps.microdoppler.gait.plan import PlannedSample, num_held_out, plan_samples
from jitflow.apps.microdoppler.gait.population import Direction, Variation, draw_walkers
from jitflow.apps.microdoppler.gait.truth import true_step_frequency_hz, walking_speed_m_s
from jitflow.errors import ConfigError

Layout = Literal["class_folders", "flat"]
FileFormat = Literal["png", "npz"]
# Version; raise it when the same parameters would give other images.
_VERSION = 1
# The walk of each is a kilobyte of the record, which is in memory.
_MOST_IMAGES = 200_000


def dataset_parameters(
    *,
    num_users: int,
    images_per_user: int,
    val_fraction: float = 0.2,
    seed: int = 0,
    radar: Radar | None = None,
    settings: SpectrogramSettings | None = None,
    variation: Variation | None = None,
    min_cadence_gap: float = 0.0,
    layout: Layout = "class_folders",
    file_format: FileFormat = "png",
    campaign: Campaign | None = None,
) -> dict[str, Any]:
    """Return the content of ``simulation.json``: every parameter, user and walk, without simulating a spectrogram.

    Args:
        num_users: As in :func:`~jitflow.apps.microdoppler.gait.dataset.write_dataset`; likewise the others.
        images_per_user: Images of each user.
        val_fraction: Share under ``val/``.
        seed: Seed of everything.
        radar: The radar.
        settings: Window, hop, axes and colours.
        variation: Variation of people and walks.
        min_cadence_gap: Minimum relative difference between step frequencies.
        layout: Names of folders and files.
        file_format: Pictures or arrays.
        campaign: Sessions and activities; None for walks without sessions.

    Returns:
        ``parameters``, ``users`` (body, habits, ``step_frequency_hz``, ``speed_m_s``) and ``samples`` (``file``,
        ``split``, ``user_id`` and ``sample`` from 1, the walk, ``step_frequency_hz``, ``speed_m_s``,
        ``torso_velocity_m_s``). Of a campaign samples also have ``activity``, ``session`` and ``recording`` from 1, the
        ``channel`` and the ``walker`` as of that day; ``step_frequency_hz`` is the rate of its repetitions, if any.

    Raises:
        ConfigError: If an argument is invalid.
    """
    check_count("num_users", num_users)
    check_count("images_per_user", images_per_user, most=_MOST_IMAGES)
    check_count("num_users", num_users, most=_MOST_IMAGES // images_per_user)
    _check_val(images_per_user, val_fraction, campaign)
    if layout not in ("class_folders", "flat"):
        raise ConfigError(f"layout must be 'class_folders' or 'flat'; got {layout!r}")
    if file_format not in ("png", "npz"):
        raise ConfigError(f"file_format must be 'png' or 'npz'; got {file_format!r}")
    variation = variation or Variation()
    activities = campaign.activities if campaign else ("walk",)
    radar = radar or radar_for_band(24e9, variation.direction, activities)
    settings = settings or settings_for_band(radar, variation.direction, activities)
    _check_axis(radar, settings, variation)
    walkers = draw_walkers(num_users, seed, variation=variation, min_cadence_gap=min_cadence_gap)
    users = [
        {
            "user_id": user + 1,
            "step_frequency_hz": true_step_frequency_hz(walker),
            "speed_m_s": walking_speed_m_s(walker),
            **_plain(walker),
        }
        for user, walker in enumerate(walkers)
    ]
    planned = plan_samples(walkers, images_per_user, val_fraction, seed, variation, campaign, settings.duration_sec)
    samples = [_record(sample, layout, file_format) for sample in planned]
    parameters = {
        "version": _VERSION,
        "num_users": num_users,
        "images_per_user": images_per_user,
        "val_fraction": val_fraction,
        "seed": seed,
        "min_cadence_gap": min_cadence_gap,
        "layout": layout,
        "radar": _plain(radar),
        "settings": _plain(settings),
        "variation": _plain(variation),
        # Not among those of pictures, so that older sets of pictures are resumed.
        **({} if file_format == "png" else {"file_format": file_format}),
        **({} if campaign is None else {"campaign": _plain(campaign)}),
    }
    return {"parameters": parameters, "users": users, "samples": samples}


def velocity_limits_m_s(direction: Direction, activities: Sequence[str]) -> tuple[float, float]:
    """Return the velocity axis that shows people who move in a direction; runners need a wider one.

    Args:
        direction: Toward the radar, away from it, or both.
        activities: What people do.

    Returns:
        Lowest and highest radial velocity, m/s.
    """
    slow, fast = (-4.0, 11.0) if "run" in activities else (-3.0, 9.0)
    if direction == "both":
        return (-fast, fast) if "run" in activities else (-6.2, 6.2)
    return (slow, fast) if direction == "toward" else (-fast, -slow)


def radar_for_band(carrier_hz: float, direction: Direction, activities: Sequence[str]) -> Radar:
    """Build a radar whose pulse rate tells the velocities of a direction and its activities apart.

    Args:
        carrier_hz: Carrier frequency, Hz.
        direction: Toward the radar, away from it, or both.
        activities: What people do.
    """
    low, high = velocity_limits_m_s(direction, activities)
    # Radars of walks keep their pulse rate: its margin over an axis of both directions is none.
    return radar_for_carrier(carrier_hz, velocity_span_m_s=max(12.4, high - low))


def settings_for_band(radar: Radar, direction: Direction, activities: Sequence[str]) -> SpectrogramSettings:
    """Return default spectrogram settings for a radar, with the velocity axis of a direction and its activities.

    Args:
        radar: The radar.
        direction: Toward the radar, away from it, or both.
        activities: What people do.
    """
    low, high = velocity_limits_m_s(direction, activities)
    return dataclasses.replace(settings_for_radar(radar), velocity_min_m_s=low, velocity_max_m_s=high)


def _record(sample: PlannedSample, layout: Layout, file_format: FileFormat) -> dict[str, Any]:
    """Return what ``simulation.json`` says of a sample."""
    trial, motion = sample.trial, sample.trial.motion
    name = sample.file_name(flat=layout == "flat")
    record = {
        "file": f"{name}.{file_format}",
        "split": sample.split,
        "user_id": sample.user + 1,
        "sample": sample.index + 1,
        "step_frequency_hz": motion.repetition_hz,
        "speed_m_s": motion.speed_m_s,
        "torso_velocity_m_s": motion.speed_m_s * math.cos(math.radians(trial.walk.aspect_deg)),
        **_plain(trial.walk),
    }
    if sample.session is None or trial.channel is None:
        return record
    return {
        **record,
        "activity": trial.activity,
        "session": sample.session + 1,
        "recording": sample.recording,
        "channel": _plain(trial.channel),
        "walker": _plain(trial.walker),
    }


def _check_val(images_per_user: int, val_fraction: float, campaign: Campaign | None) -> None:
    """Raise ConfigError unless training and validation both get images, of a campaign whole sessions."""
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must lie in [0, 1); got {val_fraction}")
    if campaign is not None and images_per_user < campaign.num_sessions * len(campaign.activities):
        raise ConfigError(
            f"images_per_user {images_per_user} is less than one of each of {len(campaign.activities)} activities in "
            f"each of {campaign.num_sessions} sessions; raise it"
        )
    name, num = ("images_per_user", images_per_user) if campaign is None else ("num_sessions", campaign.num_sessions)
    if num_held_out(num, val_fraction) >= num:
        raise ConfigError(f"{name} {num} leaves none for training with val_fraction {val_fraction}; raise it")


def _check_axis(radar: Radar, settings: SpectrogramSettings, variation: Variation) -> None:
    """Raise ConfigError unless the velocity axis suits radar and walks, before anything is written."""
    if settings.velocity_span_m_s > radar.velocity_span_m_s * 1.001:
        raise ConfigError(
            f"the velocity axis spans {settings.velocity_span_m_s:g} m/s but the radar tells only "
            f"{radar.velocity_span_m_s:.4g} m/s apart; raise prf_hz or narrow the axis"
        )
    size = settings.window_size(radar)
    if settings.fft_size is not None and settings.fft_size < size:
        raise ConfigError(f"fft_size {settings.fft_size} is below the {size} samples of the window; raise it")
    # The torso must be visible, whichever direction people walk.
    if variation.direction != "toward" and settings.velocity_min_m_s > -3.5:
        raise ConfigError(
            f"people who walk away need velocity_min_m_s below -3.5 on the axis; got {settings.velocity_min_m_s:g}"
        )
    if variation.direction != "away" and settings.velocity_max_m_s < 3.5:
        raise ConfigError(
            f"people who walk up need velocity_max_m_s above 3.5 on the axis; got {settings.velocity_max_m_s:g}"
        )


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as read back from JSON: lists for tuples, None for no noise."""
    fields = dataclasses.asdict(value)
    plain = {name: list(item) if isinstance(item, tuple) else item for name, item in fields.items()}
    return {name: None if isinstance(item, float) and math.isinf(item) else item for name, item in plain.items()}
