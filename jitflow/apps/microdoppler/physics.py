"""Gait of a spectrogram: step frequency and torso velocity, read from the picture and compared with the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitflow.apps.microdoppler.gait import SpectrogramSettings, estimate_step_frequency, estimate_torso_velocity
from jitflow.errors import ConfigError, DataError, unknown_name
from jitflow.evaluation.features import check_images

OnProgress = Callable[[int, int], None]


class GaitReadings(NamedTuple):
    """Gait that was read from each picture; NaN where there was nothing to read.

    Attributes:
        step_frequency_hz: Steps a second, shape ``(N,)``, float64.
        torso_velocity_m_s: Mean radial velocity of the torso, positive towards the radar, shape ``(N,)``, float64.
    """

    step_frequency_hz: Tensor
    torso_velocity_m_s: Tensor


class GaitTruth(NamedTuple):
    """Gait of each of K users.

    Attributes:
        step_frequency_hz: Usual steps a second, shape ``(K,)``, float64; NaN where it is not known.
        torso_velocity_m_s: Usual speed of the torso along the line of sight, shape ``(K,)``, float64, not negative.
        source: Where this comes from, for a report.
    """

    step_frequency_hz: Tensor
    torso_velocity_m_s: Tensor
    source: str


def read_gait(
    images: Tensor, settings: SpectrogramSettings | None = None, *, on_progress: OnProgress | None = None
) -> GaitReadings:
    """Read step frequency and torso velocity from pictures, a few milliseconds each.

    Args:
        images: Shape ``(N, C, H, W)``, uint8, C 3 or 1; time to the right, velocity upwards.
        settings: Axes, range and colours of the pictures; None is the simulator's default.
        on_progress: Called with (images done, all images).

    Returns:
        The readings.

    Raises:
        ConfigError: If the images have another shape or type.
    """
    check_images(images)
    values = torch.empty(2, len(images), dtype=torch.float64)
    for i, image in enumerate(images):
        # The estimators take the channels last.
        picture = image.cpu().expand(3, -1, -1).permute(1, 2, 0).numpy()
        values[0, i] = estimate_step_frequency(picture, settings)
        values[1, i] = estimate_torso_velocity(picture, settings)
        if on_progress:
            on_progress(i + 1, len(images))
    return GaitReadings(*values)


def truth_from_readings(readings: GaitReadings, users: Tensor, num_users: int) -> GaitTruth:
    """Estimate the gait of each user: medians of the readings of the user's real pictures.

    Args:
        readings: Of real pictures, best those that the generator was trained on.
        users: User of each picture, shape ``(N,)``, in ``[0, num_users)``.
        num_users: Number of users K.

    Returns:
        The truth; NaN for a user of whose pictures none could be read.

    Raises:
        ConfigError: If the shapes do not fit or a user is out of range.
    """
    _check_users(readings.step_frequency_hz, users, num_users)
    # Both ways of walking count, so that the speed is that of the median step and not a mean of to and fro.
    steps, speeds = (
        torch.stack([torch.nanmedian(values[users == user]) for user in range(num_users)])
        for values in (readings.step_frequency_hz, readings.torso_velocity_m_s.abs())
    )
    return GaitTruth(steps, speeds, "median of the real training images, read in the same way")


def truth_from_simulation(simulation: Mapping[str, Any], user_ids: Sequence[int]) -> GaitTruth:
    """Read the gait of each user from the record of a simulated data set.

    Args:
        simulation: What ``simulation.json`` holds, see :func:`jitflow.apps.microdoppler.gait.write_dataset`.
        user_ids: Ids of the users, in the order of their labels.

    Returns:
        Each user's usual step frequency, and the median of the true radial speeds of the user's training walks
        (which the angle to the radar makes smaller than the walking speed).

    Raises:
        DataError: If a user is not in it, or it is not what the simulator writes.
    """
    try:
        usual = {user["user_id"]: float(user["step_frequency_hz"]) for user in simulation["users"]}
        walks = [
            (sample["user_id"], abs(float(sample["torso_velocity_m_s"])))
            for sample in simulation["samples"]
            if sample["split"] == "train"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"simulation.json is not what the simulator writes ({type(error).__name__}: {error}); move it away to take "
            "the truth from the images, or simulate anew"
        ) from None
    unknown = sorted(set(user_ids) - (usual.keys() & {user for user, _ in walks}))
    if unknown:
        raise DataError(f"simulation.json knows no training walks of user {', '.join(map(str, unknown))}")
    speeds = [torch.tensor([v for user, v in walks if user == i], dtype=torch.float64).median() for i in user_ids]
    steps = torch.tensor([usual[i] for i in user_ids], dtype=torch.float64)
    return GaitTruth(steps, torch.stack(speeds), "simulation.json")


def settings_from_mapping(values: Mapping[str, Any]) -> SpectrogramSettings:
    """Make spectrogram settings from plain values, such as those of a file.

    Args:
        values: Any fields of :class:`jitflow.apps.microdoppler.gait.SpectrogramSettings`, or what ``simulation.json``
            holds.

    Returns:
        The settings.

    Raises:
        ConfigError: If a name is unknown or a value cannot work.
    """
    parameters = values.get("parameters")
    if isinstance(parameters, Mapping) and isinstance(parameters.get("settings"), Mapping):
        values = parameters["settings"]
    known = [field.name for field in dataclasses.fields(SpectrogramSettings)]
    for name in values:
        if name not in known:
            raise unknown_name("spectrogram setting", name, known)
    try:
        return SpectrogramSettings(**values)
    except TypeError as error:
        raise ConfigError(f"the spectrogram settings cannot be used ({error})") from None


def share_within(values: Tensor, users: Tensor, truth: Tensor, tolerance: float = 0.05) -> float:
    """Compute the share of values near the truth of their user; NaN, of either, is a miss.

    Args:
        values: One for each picture, shape ``(N,)``, N at least 1.
        users: User of each, shape ``(N,)``, in ``[0, K)``.
        truth: One for each user, shape ``(K,)``.
        tolerance: Largest relative difference, the edge included.

    Returns:
        The share, in ``[0, 1]``.

    Raises:
        ConfigError: If the shapes do not fit, a user is out of range or the tolerance is not positive.
    """
    _check_users(values, users, len(truth))
    if not tolerance > 0:
        raise ConfigError(f"tolerance must be positive; got {tolerance}")
    own = truth[users]
    return float(((values - own).abs() <= tolerance * own.abs()).double().mean())


def _check_users(values: Tensor, users: Tensor, num_users: int) -> None:
    if users.dtype.is_floating_point or not len(users) or users.shape != values.shape:
        raise ConfigError(
            f"users must be whole numbers, one for each of {len(values)} pictures (at least one); got {users.dtype}, "
            f"{tuple(users.shape)}"
        )
    if not 0 <= int(users.min()) <= int(users.max()) < num_users:
        raise ConfigError(f"users must lie in [0, {num_users}); got {int(users.min())} to {int(users.max())}")
