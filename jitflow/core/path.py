"""Linear path from noise to data, and the conversions between data, velocity and noise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from jitflow.errors import ConfigError

Prediction = Literal["data", "velocity", "noise"]
ModelPrediction = Literal["data", "velocity", "noise", "asym"]
"""What a model may predict: one of the three, or ``asym`` (:mod:`jitflow.core.asymmetric`), which needs a subspace."""
PREDICTIONS: tuple[Prediction, ...] = ("data", "velocity", "noise")


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """Reshape times so that they broadcast over a batch, and over nothing else.

    A time of shape ``(B,)`` multiplied by data whose last dimension happens to be ``B`` would broadcast
    silently along the wrong axis; every formula in this package therefore goes through here.

    Args:
        t: Time, shape ``(B,)``.
        x: The tensor to broadcast over, shape ``(B, *S)``.

    Returns:
        ``t`` as ``(B, 1, ..., 1)`` with as many dimensions as ``x``, on the device of ``x``.

    Raises:
        ValueError: If ``t`` is not one-dimensional of length ``B``.
    """
    if t.dim() != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(f"t must have shape ({x.shape[0]},), one time for each sample; got {tuple(t.shape)}")
    return t.to(x.device).view(-1, *([1] * (x.dim() - 1)))


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Interpolate between noise and data on the linear path: ``x_t = t x1 + (1 - t) x0``.

    Args:
        x0: Noise, shape ``(B, *S)``.
        x1: Data, shape ``(B, *S)``.
        t: Time, shape ``(B,)``, in ``[0, 1]``; 0 is noise, 1 is data.

    Returns:
        Path sample, shape ``(B, *S)``.

    Raises:
        ValueError: If ``t`` is not one-dimensional of length ``B``.
    """
    t = expand_time(t, x1)
    return t * x1 + (1 - t) * x0


def velocity_from_data(x1_pred: Tensor, x_t: Tensor, t: Tensor, *, t_eps: float = 0.05) -> Tensor:
    """Convert a clean-data prediction into a velocity: ``(x1 - x_t) / max(1 - t, t_eps)``.

    Args:
        x1_pred: Predicted data, shape ``(B, *S)``, nominally in ``[-1, 1]``.
        x_t: Path sample, shape ``(B, *S)``.
        t: Time, shape ``(B,)``, in ``[0, 1]``; 0 is noise, 1 is data.
        t_eps: Smallest allowed ``1 - t``; larger is safer but biased near the data.

    Returns:
        Velocity per unit time, shape ``(B, *S)``, dtype of ``x_t``.

    Raises:
        ValueError: If ``t`` is not one-dimensional of length ``B``.

    References:
        Li & He 2025, arXiv:2511.13720, section 3.
    """
    return (x1_pred - x_t) / (1 - expand_time(t, x_t)).clamp_min(t_eps)


def data_from_velocity(v_pred: Tensor, x_t: Tensor, t: Tensor, *, t_eps: float = 0.05) -> Tensor:
    """Convert a velocity into the data it points at: ``x_t + max(1 - t, t_eps) v``.

    The exact inverse of :func:`velocity_from_data`, clamp included. Arguments and shapes as there.
    """
    return x_t + (1 - expand_time(t, x_t)).clamp_min(t_eps) * v_pred


def velocity_from_noise(x0_pred: Tensor, x_t: Tensor, t: Tensor, *, t_eps: float = 0.05) -> Tensor:
    """Convert a noise prediction into a velocity: ``(x_t - x0) / max(t, t_eps)``.

    Arguments and shapes as in :func:`velocity_from_data`; the clamp acts near the noise, where a noise
    prediction says nothing about the data.
    """
    return (x_t - x0_pred) / expand_time(t, x_t).clamp_min(t_eps)


def noise_from_velocity(v_pred: Tensor, x_t: Tensor, t: Tensor, *, t_eps: float = 0.05) -> Tensor:
    """Convert a velocity into the noise it came from: ``x_t - max(t, t_eps) v``.

    The exact inverse of :func:`velocity_from_noise`, clamp included. Arguments and shapes as there.
    """
    return x_t - expand_time(t, x_t).clamp_min(t_eps) * v_pred


def noise_from_data(x1_pred: Tensor, x_t: Tensor, t: Tensor, *, t_eps: float = 0.05) -> Tensor:
    """Convert a data prediction into noise: ``(x_t - t x1) / max(1 - t, t_eps)``.

    Arguments and shapes as in :func:`velocity_from_data`.
    """
    t = expand_time(t, x_t)
    return (x_t - t * x1_pred) / (1 - t).clamp_min(t_eps)


def data_from_noise(x0_pred: Tensor, x_t: Tensor, t: Tensor, *, t_eps: float = 0.05) -> Tensor:
    """Convert a noise prediction into data: ``(x_t - (1 - t) x0) / max(t, t_eps)``.

    Arguments and shapes as in :func:`velocity_from_data`.
    """
    t = expand_time(t, x_t)
    return (x_t - (1 - t) * x0_pred) / t.clamp_min(t_eps)


def velocity_from_prediction(
    output: Tensor, x_t: Tensor, t: Tensor, *, prediction: ModelPrediction, t_eps: float = 0.05
) -> Tensor:
    """Convert a network's prediction of any kind into a velocity.

    Args:
        output: The network's output, shape ``(B, *S)``.
        x_t: Path sample, shape ``(B, *S)``.
        t: Time, shape ``(B,)``, in ``[0, 1]``.
        prediction: What ``output`` means.
        t_eps: Clamp of the conversions, see :func:`velocity_from_data`.

    Returns:
        Velocity per unit time, shape ``(B, *S)``.

    Raises:
        ConfigError: If ``prediction`` is none of the three.
    """
    if prediction == "data":
        return velocity_from_data(output, x_t, t, t_eps=t_eps)
    if prediction == "velocity":
        return output
    if prediction == "noise":
        return velocity_from_noise(output, x_t, t, t_eps=t_eps)
    raise _unknown_prediction(prediction)


def convert_velocity(v: Tensor, x_t: Tensor, t: Tensor, *, to: Prediction, t_eps: float = 0.05) -> Tensor:
    """Convert a velocity into the data, the noise or the velocity that it stands for.

    With :func:`velocity_from_prediction` this gives all nine ways to train a network that predicts one of the three by
    an error of another. Where no clamp acts, the squared error of the space is that of the prediction times

    ============  ==================  ==================  ==================
    prediction    error of data       error of velocity   error of noise
    ============  ==================  ==================  ==================
    ``data``      1                   ``1 / (1-t)^2``     ``t^2 / (1-t)^2``
    ``velocity``  ``(1-t)^2``         1                   ``t^2``
    ``noise``     ``(1-t)^2 / t^2``   ``1 / t^2``         1
    ============  ==================  ==================  ==================

    Args:
        v: Velocity, shape ``(B, *S)``.
        x_t: Path sample, shape ``(B, *S)``.
        t: Time, shape ``(B,)``, in ``[0, 1]``.
        to: What to convert to.
        t_eps: Clamp of the conversions, see :func:`velocity_from_data`.

    Returns:
        The converted velocity, shape ``(B, *S)``.

    Raises:
        ConfigError: If ``to`` is none of the three.

    References:
        Li & He 2025, arXiv:2511.13720, table 1.
    """
    if to == "velocity":
        return v
    if to == "data":
        return data_from_velocity(v, x_t, t, t_eps=t_eps)
    if to == "noise":
        return noise_from_velocity(v, x_t, t, t_eps=t_eps)
    raise _unknown_prediction(to)


def perfect_prediction(x0: Tensor, x1: Tensor, *, prediction: ModelPrediction) -> Tensor:
    """Return the prediction of an ideal network, which makes no error.

    Passing it through :func:`velocity_from_prediction` gives the training target with the same clamp as the
    prediction it is compared with, so that an ideal network has zero loss inside the clamp too.

    Args:
        x0: Noise, shape ``(B, *S)``.
        x1: Data, shape ``(B, *S)``.
        prediction: What the network predicts.

    Returns:
        ``x1``, ``x1 - x0`` or ``x0``, shape ``(B, *S)``.

    Raises:
        ConfigError: If ``prediction`` is none of the three.
    """
    if prediction == "data":
        return x1
    if prediction == "velocity":
        return x1 - x0
    if prediction == "noise":
        return x0
    raise _unknown_prediction(prediction)


def _unknown_prediction(prediction: object) -> ConfigError:
    return ConfigError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")


def renoise(x_t: Tensor, t: Tensor, t_back: Tensor, unit_noise: Tensor, *, noise_scale: float = 1.0) -> Tensor:
    """Add noise to a state so that it becomes a path sample of an earlier time.

    ``x_t`` is scaled so that its data have weight ``t_back``; fresh noise raises its noise to the standard deviation of
    that time. A sampler that does so before each step corrects its earlier errors.

    Args:
        x_t: Path sample, shape ``(B, *S)``.
        t: Its time, shape ``(B,)``, above 0.
        t_back: The earlier time, shape ``(B,)``, in ``[0, t]``.
        unit_noise: Fresh noise of standard deviation 1, shape ``(B, *S)``.
        noise_scale: Standard deviation of the path's noise.

    Returns:
        Path sample at ``t_back``, shape ``(B, *S)``.

    References:
        Karras et al. 2022, arXiv:2206.00364, algorithm 2, here on the linear path.
    """
    now, back = expand_time(t, x_t), expand_time(t_back, x_t)
    kept = back / now * (1 - now)
    added = ((1 - back).square() - kept.square()).clamp_min(0).sqrt()
    return back / now * x_t + noise_scale * added * unit_noise
