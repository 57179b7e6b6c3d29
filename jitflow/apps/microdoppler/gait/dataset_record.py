"""Record of a simulated data set: its parameters, its walkers, and the true gait of every spectrogram."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from jitflow.apps.microdoppler.gait.checks import check_count
from jitflow.apps.microdoppler.gait.echo import Radar
from jitflow.apps.microdoppler.gait.picture import SpectrogramSettings, settings_for_radar
from jitflow.apps.microdoppler.gait.population import Variation, draw_walk, draw_walkers
from jitflow.apps.microdoppler.gait.truth import torso_velocity_m_s, true_step_frequency_hz, walking_speed_m_s
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

    Returns:
        ``parameters``, ``users`` (body, habits, ``step_frequency_hz``, ``speed_m_s``) and ``samples`` (``file``,
        ``split``, ``user_id`` and ``sample`` from 1, the walk, ``step_frequency_hz``, ``speed_m_s``,
        ``torso_velocity_m_s``).

    Raises:
        ConfigError: If an argument is invalid.
    """
    check_count("num_users", num_users)
    check_count("images_per_user", images_per_user, most=_MOST_IMAGES)
    check_count("num_users", num_users, most=_MOST_IMAGES // images_per_user)
    num_val = _num_val(images_per_user, val_fraction)
    if layout not in ("class_folders", "flat"):
        raise ConfigError(f"layout must be 'class_folders' or 'flat'; got {layout!r}")
    if file_format not in ("png", "npz"):
        raise ConfigError(f"file_format must be 'png' or 'npz'; got {file_format!r}")
    radar = radar or Radar()
    variation = variation or Variation()
    settings = settings or _default_settings(radar, variation)
    _check_axis(radar, settings, variation)
    walkers = draw_walkers(num_users, seed, variation=variation, min_cadence_gap=min_cadence_gap)

    users, samples = [], []
    for user, walker in enumerate(walkers):
        users.append(
            {
                "user_id": user + 1,
                "step_frequency_hz": true_step_frequency_hz(walker),
                "speed_m_s": walking_speed_m_s(walker),
                **_plain(walker),
            }
        )
        for sample in range(images_per_user):
            walk = draw_walk(seed, user, sample, variation=variation)
            split = "train" if sample < images_per_user - num_val else "val"
            samples.append(
                {
                    "file": f"{_file_name(layout, split, user + 1, sample + 1)}.{file_format}",
                    "split": split,
                    "user_id": user + 1,
                    "sample": sample + 1,
                    "step_frequency_hz": true_step_frequency_hz(walker, walk),
                    "speed_m_s": walking_speed_m_s(walker, walk),
                    "torso_velocity_m_s": torso_velocity_m_s(walker, walk),
                    **_plain(walk),
                }
            )
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
    }
    return {"parameters": parameters, "users": users, "samples": samples}


def _num_val(images_per_user: int, val_fraction: float) -> int:
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must lie in [0, 1); got {val_fraction}")
    num = max(1, round(images_per_user * val_fraction)) if val_fraction else 0
    if num >= images_per_user:
        raise ConfigError(
            f"images_per_user {images_per_user} leaves none for training with val_fraction {val_fraction}; raise it"
        )
    return num


def _default_settings(radar: Radar, variation: Variation) -> SpectrogramSettings:
    """Return default settings for the radar, with a velocity axis for the walking direction."""
    settings = settings_for_radar(radar)
    if variation.direction == "toward":
        return settings
    limits = (-9.0, 3.0) if variation.direction == "away" else (-6.2, 6.2)
    return dataclasses.replace(settings, velocity_min_m_s=limits[0], velocity_max_m_s=limits[1])


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


def _file_name(layout: Layout, split: str, user_id: int, sample: int) -> str:
    if layout == "flat":
        return f"{split}/user_{user_id:02d}_sample_{sample:03d}"
    return f"{split}/ID_{user_id}/ID_{user_id}_{sample:04d}"


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as read back from JSON: lists for tuples, None for no noise."""
    fields = dataclasses.asdict(value)
    plain = {name: list(item) if isinstance(item, tuple) else item for name, item in fields.items()}
    return {name: None if isinstance(item, float) and math.isinf(item) else item for name, item in plain.items()}
