"""Gait scores of generated spectrograms: step frequency and torso velocity, compared with the user's own."""

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
    """Gait of each spectrogram image; NaN if it could not be estimated.

    Attributes:
        step_frequency_hz: Steps per second, shape ``(N,)``, float64.
        torso_velocity_m_s: Mean radial velocity of the torso, positive towards the radar, shape ``(N,)``, float64.
    """

    step_frequency_hz: Tensor
    torso_velocity_m_s: Tensor


class GaitTruth(NamedTuple):
    """True gait of each of K users.

    Attributes:
        step_frequency_hz: Usual steps per second, shape ``(K,)``, float64; NaN if unknown.
        torso_velocity_m_s: Usual speed of the torso along the line of sight, shape ``(K,)``, float64, not negative.
        source: Origin of these values, for a report.
    """

    step_frequency_hz: Tensor
    torso_velocity_m_s: Tensor
    source: str


def read_gait(
    images: Tensor, settings: SpectrogramSettings | None = None, *, on_progress: OnProgress | None = None
) -> GaitReadings:
    """Estimate the gait (step frequency, torso velocity) from spectrogram images, a few milliseconds each.

    Args:
        images: Shape ``(N, C, H, W)``, uint8, C 3 or 1; time to the right, velocity upwards.
        settings: Axes, range and colours of the images; None takes the simulator's default.
        on_progress: Called with (images done, all images).

    Returns:
        The readings.

    Raises:
        ConfigError: If the images' shape or type is wrong.
    """
    check_images(images)
    values = torch.empty(2, len(images), dtype=torch.float64)
    for i, image in enumerate(images):
        # The estimators expect channels last.
        picture = image.cpu().expand(3, -1, -1).permute(1, 2, 0).numpy()
        values[0, i] = estimate_step_frequency(picture, settings)
        values[1, i] = estimate_torso_velocity(picture, settings)
        if on_progress:
            on_progress(i + 1, len(images))
    return GaitReadings(*values)


def levels_below_peak(images: Tensor, factor: float) -> Tensor:
    """Change images whose white is a fixed level of a data set to ones whose white is their own peak.

    Args:
        images: Grey levels, shape ``(N, 1, H, W)``, uint8.
        factor: The images' range in dB over that of the result.

    Returns:
        Grey levels, the same shape, uint8: 255 at the peak of each image, 0 at the range below it.
    """
    peaks = images.amax(dim=(1, 2, 3), keepdim=True).float()
    return (255 + (images.float() - peaks) * factor).clamp(0, 255).round().to(torch.uint8)


def truth_from_readings(readings: GaitReadings, users: Tensor, num_users: int) -> GaitTruth:
    """Derive the true gait of each user from real images: medians of the estimates.

    Args:
        readings: Gait of real images, preferably the generator's training images.
        users: User of each image, shape ``(N,)``, in ``[0, num_users)``.
        num_users: Number of users K.

    Returns:
        The true gait; NaN for users without a successful estimate.

    Raises:
        ConfigError: If the shapes are inconsistent or a user is out of range.
    """
    _check_users(readings.step_frequency_hz, users, num_users)
    # Absolute values, so that walks towards and away from the radar do not cancel.
    steps, speeds = (
        torch.stack([torch.nanmedian(values[users == user]) for user in range(num_users)])
        for values in (readings.step_frequency_hz, readings.torso_velocity_m_s.abs())
    )
    return GaitTruth(steps, speeds, "median of the real training images, read in the same way")


def truth_from_simulation(simulation: Mapping[str, Any], user_ids: Sequence[int]) -> GaitTruth:
    """Read the true gait of each user from the record of a simulated data set.

    Args:
        simulation: Content of ``simulation.json``, see :func:`jitflow.apps.microdoppler.gait.write_dataset`.
        user_ids: Ids of the users, in the order of their labels.

    Returns:
        Each user's usual step frequency, and the median of the true radial speeds of the user's training walks
        (smaller than the walking speed because of the angle to the radar).

    Raises:
        DataError: If a user is missing, or the record is malformed.
    """
    try:
        usual = {user["user_id"]: float(user["step_frequency_hz"]) for user in simulation["users"]}
        walks = [
            (sample["user_id"], abs(float(sample["torso_velocity_m_s"])))
            for sample in simulation["samples"]
            if sample["split"] == "train" and sample.get("activity", "walk") == "walk"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"simulation.json is not what the simulator writes ({type(error).__name__}: {error}); move it away to take "
            "the truth from the images, or simulate again"
        ) from None
    unknown = sorted(set(user_ids) - (usual.keys() & {user for user, _ in walks}))
    if unknown:
        raise DataError(f"simulation.json knows no training walks of user {', '.join(map(str, unknown))}")
    speeds = [torch.tensor([v for user, v in walks if user == i], dtype=torch.float64).median() for i in user_ids]
    steps = torch.tensor([usual[i] for i in user_ids], dtype=torch.float64)
    return GaitTruth(steps, torch.stack(speeds), "simulation.json")


def settings_from_mapping(values: Mapping[str, Any]) -> SpectrogramSettings:
    """Build spectrogram settings from plain values, such as those of a file.

    Args:
        values: Any fields of :class:`jitflow.apps.microdoppler.gait.SpectrogramSettings`, or the content of
            ``simulation.json``.

    Returns:
        The settings.

    Raises:
        ConfigError: If a name is unknown or a value is invalid.
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


def near_truth(values: Tensor, users: Tensor, truth: Tensor, tolerance: float = 0.05) -> Tensor:
    """Tell which gait values are near the truth of their user; NaN in either is a miss.

    Args:
        values: A value for each image, shape ``(N,)``, N at least 1.
        users: User of each image, shape ``(N,)``, in ``[0, K)``.
        truth: True value for each user, shape ``(K,)``.
        tolerance: Largest relative difference, inclusive.

    Returns:
        Whether each is, shape ``(N,)``, boolean.

    Raises:
        ConfigError: If the shapes are inconsistent, a user is out of range or the tolerance is not positive.
    """
    _check_users(values, users, len(truth))
    if not tolerance > 0:
        raise ConfigError(f"tolerance must be positive; got {tolerance}")
    own = truth[users]
    return (values - own).abs() <= tolerance * own.abs()


def share_within(values: Tensor, users: Tensor, truth: Tensor, tolerance: float = 0.05) -> float:
    """Compute the share of gait values near the truth of their user, in ``[0, 1]``; arguments of :func:`near_truth`."""
    return float(near_truth(values, users, truth, tolerance).double().mean())


def _check_users(values: Tensor, users: Tensor, num_users: int) -> None:
    if users.dtype.is_floating_point or not len(users) or users.shape != values.shape:
        raise ConfigError(
            f"users must be whole numbers, one for each of {len(values)} pictures (at least one); got {users.dtype}, "
            f"{tuple(users.shape)}"
        )
    if not 0 <= int(users.min()) <= int(users.max()) < num_users:
        raise ConfigError(f"users must lie in [0, {num_users}); got {int(users.min())} to {int(users.max())}")
