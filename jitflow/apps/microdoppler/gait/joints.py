"""Joint angles of a walking person over a gait cycle: the global model of Boulic et al.

A phase counts gait cycles (two steps), so whole numbers are equivalent. ``rv`` is the relative velocity, walking speed
over leg length (hip to ankle), in 1/s, in (0, 3]. Angles are in degrees.

References:
    R. Boulic, N. Magnenat-Thalmann, D. Thalmann, "A global human walking model with real-time kinematic
    personification", The Visual Computer 6 (1990) 344-358, in the form of V. Chen's radar scripts, with their
    misprints corrected (elbow above rv 1.3, pelvis list).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.gait.checks import check_range

Array = np.ndarray
_TURN = 2 * np.pi
MAX_RELATIVE_VELOCITY = 3.0


@dataclass(frozen=True)
class JointAngles:
    """Angles of one body side and of the trunk, in degrees, each of the shape of the phases.

    Args:
        hip: Flexion of the hip, positive forward.
        knee: Flexion of the knee, positive backward.
        ankle: Flexion of the ankle, positive toe up.
        shoulder: Flexion of the shoulder, positive forward.
        elbow: Flexion of the elbow, positive forward.
        trunk_flexion: Pitch of the upper body; negative leans forward.
        pelvis_list: Roll of the pelvis.
        pelvis_torsion: Yaw of the lower body.
        thorax_torsion: Yaw of the upper body.
    """

    hip: Array
    knee: Array
    ankle: Array
    shoulder: Array
    elbow: Array
    trunk_flexion: Array
    pelvis_list: Array
    pelvis_torsion: Array
    thorax_torsion: Array


def cycle_duration_sec(rv: float) -> float:
    """Duration of a gait cycle (two steps): ``1.346 / sqrt(rv)`` seconds."""
    _check_rv(rv)
    return float(1.346 / np.sqrt(rv))


def support_fraction(rv: float) -> float:
    """Share of the gait cycle during which a foot stands: ``0.752 - 0.143 / cycle``."""
    return 0.752 - 0.143 / cycle_duration_sec(rv)


def joint_angles(phase: Array, rv: float) -> JointAngles:
    """Compute the joint angles of the right side and of the trunk over the gait cycle.

    The left side's angles are those half a cycle later (``phase + 0.5``); the trunk's belong to ``phase`` itself.

    Args:
        phase: Time in gait cycles, any shape; 0 is near the strike of the right heel.
        rv: Relative velocity, 1/s, in (0, 3].

    Returns:
        The angles, each of the shape of ``phase``.

    Raises:
        ConfigError: If ``rv`` is out of range.
    """
    _check_rv(rv)
    t = np.asarray(phase, dtype=float) % 1.0
    tables = _control_points(rv)
    swing = 9.88 * rv
    nod = 2.0 if rv >= 0.5 else -8 * rv**2 + 8 * rv
    return JointAngles(
        hip=periodic_pchip(tables["hip"], t),
        knee=periodic_pchip(tables["knee"], t),
        ankle=periodic_pchip(tables["ankle"], t),
        shoulder=3 - swing / 2 - swing * np.cos(_TURN * t),
        elbow=periodic_pchip(tables["elbow"], t),
        trunk_flexion=-nod + nod * np.sin(_TURN * (2 * t - 0.1)),
        pelvis_list=_pelvis_list(t, 1.66 * rv),
        pelvis_torsion=-4 * rv * np.cos(_TURN * t),
        thorax_torsion=periodic_pchip(tables["thorax"], t),
    )


def trunk_translation(phase: Array, rv: float) -> Array:
    """Compute the sway of the body's centre in addition to its uniform motion, in leg lengths, over the gait cycle.

    Args:
        phase: Time in gait cycles, shape ``(T,)``.
        rv: Relative velocity, 1/s.

    Returns:
        Forward, left and up, shape ``(3, T)``.
    """
    t = np.asarray(phase, dtype=float) % 1.0
    slow = rv < 0.5
    up = 0.015 * rv
    aside = 0.128 * (rv - rv**2) if slow else -0.032
    along = 0.084 * (rv - rv**2) if slow else -0.021
    lag = 0.625 - support_fraction(rv)
    return np.stack(
        [
            along * np.sin(_TURN * (2 * t + 2 * lag)),
            aside * np.sin(_TURN * (t - 0.1)),
            -up + up * np.sin(_TURN * (2 * t - 0.35)),
        ]
    )


def periodic_pchip(points: Sequence[tuple[float, float]], t: Array) -> Array:
    """Interpolate a periodic gait curve with monotone cubics, without overshoot between control points.

    Args:
        points: Pairs of time and value; times are modulo 1, and the first of equal times is used.
        t: Times in ``[0, 1)``, any shape.

    Returns:
        Values, of the shape of ``t``.

    References:
        F. N. Fritsch & J. Butland, "A method for constructing local monotone piecewise cubic interpolants",
        SIAM J. Sci. Stat. Comput. 5 (1984) 300-304; the slopes are those of MATLAB's and SciPy's pchip.
    """
    # Rounding merges control points that differ only in the last bit.
    knots = {round(time % 1.0, 12) % 1.0: value for time, value in reversed(points)}
    x = np.array(sorted(knots))
    y = np.array([knots[time] for time in x])
    width = np.diff(x, append=x[0] + 1.0)
    rise = np.diff(y, append=y[0]) / width
    before, rise_before = np.roll(width, 1), np.roll(rise, 1)
    weight, weight_before = 2 * width + before, width + 2 * before
    with np.errstate(divide="ignore", invalid="ignore"):
        harmonic = (weight + weight_before) / (weight / rise_before + weight_before / rise)
    # At a turning point the slope is zero, which keeps the curve between its control points.
    slope = np.where(rise * rise_before > 0, harmonic, 0.0)
    slope_after = np.roll(slope, -1)
    cubic = (slope + slope_after - 2 * rise) / width**2
    square = (3 * rise - 2 * slope - slope_after) / width

    t = np.asarray(t, dtype=float)
    piece = np.searchsorted(x, t, side="right") - 1
    s = t - x[piece]
    # Times before the first knot are in the last piece, one period earlier (piece is -1 there).
    s = np.where(piece < 0, s + 1.0, s)
    return y[piece] + s * (slope[piece] + s * (square[piece] + s * cubic[piece]))


def _control_points(rv: float) -> dict[str, list[tuple[float, float]]]:
    """Return the control points (phase, degrees) of every interpolated curve."""
    ds = support_fraction(rv)
    thorax = [(0.1, 4 / 3 * rv), (0.4, -1.5 * rv), (0.6, -4 / 3 * rv), (0.9, 1.5 * rv)]
    if rv < 0.5:
        return {
            "thorax": thorax,
            "hip": [(0.5, -30 * rv), (0.9, 50 * rv)],
            "knee": [(0.17, 3), (0.4, 3), (0.75, 140 * rv), (1.0, 3)],
            "ankle": [(0.0, -3), (0.08, -30 * rv - 3), (0.5, 22 * rv - 3), (ds, -34 * rv - 3), (0.85, -3)],
            "elbow": [(0.05, 6 * rv + 3), (0.5, 34 * rv + 3), (0.9, 10 * rv + 3)],
        }
    if rv < 1.3:
        w = (rv - 0.5) / 0.8
        return {
            "thorax": thorax,
            "hip": [(0.5, -15), (0.9, 25)],
            "knee": [(0.17, 3), (0.4, 3), (0.75, 70), (1.0, 3)],
            "ankle": [(0.0, -3), (0.08, -18), (0.5, 8), (ds, -20), (0.85, -3)],
            "elbow": [(0.05, 8 * w + 6), (0.5 + 0.01 * w, 24 * w + 20), (0.9, 9 * w + 8)],
        }
    u = (rv - 1.3) / 1.7
    return {
        "thorax": thorax,
        "hip": [(0.2 * u - 0.1, 5 * u + 25), (0.5, -15), (0.9, 6 * u + 25)],
        "knee": [(0.17 - 0.05 * u, 22 * u + 3), (0.4, 3), (0.75 - 0.05 * u, 70 - 5 * u), (1 - 0.03 * u, 3 * u + 3)],
        "ankle": [
            (0.0, 5 * u - 3),
            (0.08, 4 * u - 18),
            (0.5 - 0.1 * u, 8 - 3 * u),
            (ds, -20 - 8 * u),
            (0.85, 5 * u - 3),
        ],
        "elbow": [(0.05, 14 - 6 * u), (0.51 + 0.04 * u, 26 * u + 44), (0.9 - 0.1 * u, 17 - 6 * u)],
    }


def _pelvis_list(t: Array, size: float) -> Array:
    """Roll of the pelvis, degrees: four half cosines, the swing side dropping quickly and rising slowly."""
    fast_down = -size + size * np.cos(_TURN * 10 * t / 3)
    slow_up = -size - size * np.cos(_TURN * 10 * (t - 0.15) / 7)
    fast_up = size - size * np.cos(_TURN * 10 * (t - 0.5) / 3)
    slow_down = size + size * np.cos(_TURN * 10 * (t - 0.65) / 7)
    return np.where(t < 0.15, fast_down, np.where(t < 0.5, slow_up, np.where(t < 0.65, fast_up, slow_down)))


def _check_rv(rv: float) -> None:
    check_range("relative_velocity", rv, 0.05, MAX_RELATIVE_VELOCITY, unit="1/s")
