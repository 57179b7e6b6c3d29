"""Draw the figures of docs/gait_simulator.md (about 10 s), or with `--table` print its table of estimates (2 min)."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Variation,
    Walk,
    Walker,
    body_points,
    cycle_duration_sec,
    draw_walk,
    draw_walkers,
    estimate_step_frequency,
    estimate_torso_velocity,
    radar_for_carrier,
    settings_for_radar,
    simulate_image,
    torso_velocity_m_s,
    true_step_frequency_hz,
)
from jitflow.apps.microdoppler.gait.body import POINTS
from jitflow.io.files import atomic_path

os.environ.setdefault("MPLBACKEND", "Agg")
from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"
USERS, WALKS, SEED = 5, 3, 0
# Chains of points that are drawn as limbs.
LIMBS = (
    ("head", "neck", "base"),
    ("left_hand", "left_elbow", "left_shoulder", "neck", "right_shoulder", "right_elbow", "right_hand"),
    ("left_toe", "left_ankle", "left_knee", "left_hip", "base"),
    ("right_toe", "right_ankle", "right_knee", "right_hip", "base"),
)


def save(figure: Figure, name: str) -> None:
    """Save a figure under docs/images/."""
    with atomic_path(IMAGES / name) as temporary:
        figure.savefig(temporary, format="png")


def draw_users() -> None:
    """Draw three walks of each of five users whose cadences differ by at least 10 %."""
    radar, settings = Radar(), SpectrogramSettings()
    walkers = draw_walkers(USERS, SEED, min_cadence_gap=0.1)
    figure = Figure(figsize=(13, 8.2), dpi=80, layout="constrained")
    axes = figure.subplots(WALKS, USERS, sharex=True, sharey=True)
    extent = (0, settings.duration_sec, settings.velocity_min_m_s, settings.velocity_max_m_s)
    for user, walker in enumerate(walkers):
        axes[0, user].set_title(
            f"user {user + 1}: {walker.height_m:.2f} m,\n{true_step_frequency_hz(walker):.2f} steps/s", fontsize=11
        )
        for sample in range(WALKS):
            walk = draw_walk(SEED, user, sample)
            plot = axes[sample, user]
            plot.imshow(simulate_image(walker, walk, radar, settings), extent=extent, aspect="auto")
            speed = torso_velocity_m_s(walker, walk)
            plot.axhline(speed, color="white", linewidth=0.7, linestyle=":")
            plot.text(0.05, 8.1, f"torso {speed:.2f} m/s, aspect {walk.aspect_deg:+.0f}°", color="white", fontsize=8)
    figure.supxlabel("time, s")
    figure.supylabel("radial velocity, m/s")
    save(figure, "gait_users.png")


def draw_bands() -> None:
    """Draw the same walk at two carriers, towards and away, with more and less noise."""
    walker, walk = Walker(), Walk(aspect_deg=10, snr_db=25)
    low, high = Radar(), radar_for_carrier(77e9)
    base, fine = settings_for_radar(low), settings_for_radar(high)
    away = replace(base, velocity_min_m_s=-9, velocity_max_m_s=3)
    cases = [
        ("24 GHz", walk, low, base),
        ("77 GHz", walk, high, fine),
        ("24 GHz, away", replace(walk, aspect_deg=190), low, away),
        ("24 GHz, 8 dB of echo over noise, jet", replace(walk, snr_db=8), low, replace(base, colour_map="jet")),
    ]
    figure = Figure(figsize=(13, 3.6), dpi=80, layout="constrained")
    for plot, (title, shown, radar, settings) in zip(figure.subplots(1, len(cases)), cases, strict=True):
        extent = (0, settings.duration_sec, settings.velocity_min_m_s, settings.velocity_max_m_s)
        plot.imshow(simulate_image(walker, shown, radar, settings), extent=extent, aspect="auto")
        plot.set_title(title, fontsize=11)
        plot.set_xlabel("time, s")
    figure.supylabel("radial velocity, m/s")
    save(figure, "gait_bands.png")


def draw_body() -> None:
    """Draw a cycle of the walking model, and its forward velocities."""
    walker = Walker()
    cycle = cycle_duration_sec(walker.relative_velocity)
    figure = Figure(figsize=(13, 3.8), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    for time in np.linspace(0, cycle, 9):
        points = body_points(walker, np.array([time]))[..., 0]
        for limb in LIMBS:
            place = np.array([points[POINTS.index(name)] for name in limb])
            colour = "#e07b39" if limb[0].startswith("left_toe") else "#1f6fb4"
            left.plot(place[:, 0] + time, place[:, 2] + walker.hip_height_m, color=colour, linewidth=1.6)
    left.axhline(0, color="#8a8f98", linewidth=0.8)
    left.set_aspect("equal")
    left.set_xlabel("forward, m (each of the 9 instants of a cycle moved on for legibility; left leg orange)")
    left.set_ylabel("height, m")
    time = np.linspace(0, 2 * cycle, 1200)
    points = body_points(walker, time)
    for name in ("base", "head", "right_hand", "right_knee", "right_ankle", "right_toe"):
        right.plot(time, np.gradient(points[POINTS.index(name), 0], time), label=name, linewidth=1.3)
    right.set_xlabel("time, s")
    right.set_ylabel("forward velocity, m/s")
    right.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    right.grid(alpha=0.25)
    save(figure, "gait_body.png")


def print_table() -> None:
    """Print the errors of the gait estimates on users and walks that were not used to develop them."""
    seed = 200
    five: dict[str, Any] = {"users": 5, "walks": 60, "gap": 0.1}
    cases: list[tuple[str, float, dict[str, Any]]] = [
        *((f"{seconds} s", seconds, {}) for seconds in (1.0, 1.5, 2.0, 2.5, 3.0, 6.0)),
        ("2.0 s, 5 users 10 % apart", 2.0, five),
        ("2.5 s, 5 users 10 % apart", 2.5, five),
        ("2.5 s, 77 GHz", 2.5, {"walks": 4, "carrier_hz": 77e9}),
        ("2.5 s, twice the habits", 2.5, {"walks": 4, "variation": Variation(habit_strength=2)}),
        *(
            (f"2.5 s, echo over noise {snr} dB", 2.5, {"walks": 4, "variation": Variation(snr_db=(snr, snr))})
            for snr in (10, 5, 0)
        ),
    ]
    for title, duration_sec, how in cases:
        radar = radar_for_carrier(how.get("carrier_hz", 24e9))
        settings = replace(settings_for_radar(radar), duration_sec=duration_sec)
        variation = how.get("variation")
        walkers = draw_walkers(how.get("users", 30), seed, variation=variation, min_cadence_gap=how.get("gap", 0.0))
        errors = []
        for user, walker in enumerate(walkers):
            for sample in range(how.get("walks", 10)):
                walk = draw_walk(seed, user, sample, variation=variation)
                image = simulate_image(walker, walk, radar, settings)
                steps = estimate_step_frequency(image, settings) / true_step_frequency_hz(walker, walk) - 1
                torso = estimate_torso_velocity(image, settings) / torso_velocity_m_s(walker, walk) - 1
                errors.append((abs(steps), abs(torso)))
        within, median = np.mean(np.array(errors) < 0.05, axis=0), np.median(errors, axis=0)
        row = [title, str(len(errors))]
        for quantity in (0, 1):
            row += [f"{within[quantity]:.1%}", f"{median[quantity]:.2%}"]
        sys.stdout.write("| " + " | ".join(row) + " |\n")


if __name__ == "__main__":
    if "--table" in sys.argv[1:]:
        print_table()
    else:
        draw_users()
        draw_bands()
        draw_body()
