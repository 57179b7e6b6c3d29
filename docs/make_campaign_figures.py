"""Draw the activities and sessions of docs/gait_simulator.md (20 s), or with `--table` measure its splits (1 min)."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from jitflow.apps.microdoppler.gait import (
    ACTIVITIES,
    Campaign,
    Channel,
    Trial,
    Variation,
    Walk,
    Walker,
    draw_session,
    draw_trial,
    draw_walkers,
    settings_for_radar,
)
from jitflow.apps.microdoppler.gait.dataset_record import radar_for_band, settings_for_band
from jitflow.apps.microdoppler.gait.picture import spectrogram_db, spectrogram_image
from jitflow.io.files import atomic_path

os.environ.setdefault("MPLBACKEND", "Agg")
from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"
USERS, SESSIONS, RECORDINGS, SEED, FOLDS = 8, 5, 6, 300, 5


def draw_activities() -> None:
    """Draw every activity as a radar at 24 GHz and one at 77 GHz see it."""
    figure = Figure(figsize=(14, 6), dpi=80, layout="constrained")
    panels = figure.subplots(2, len(ACTIVITIES), sharex=True, sharey=True)
    channel = Channel(noise_floor_db=-28, clutter_db=-20)
    for row, carrier_hz in zip(panels, (24e9, 77e9), strict=True):
        radar = radar_for_band(carrier_hz, "toward", tuple(ACTIVITIES))
        settings = replace(settings_for_band(radar, "toward", tuple(ACTIVITIES)), duration_sec=3.0)
        for panel, activity in zip(row, ACTIVITIES, strict=True):
            trial = Trial(activity, Walker(), Walk(aspect_deg=10, distance_m=9, initial_phase=0.25), channel)
            image = spectrogram_image(trial.signal(radar, settings.num_samples(radar)), radar, settings)
            panel.imshow(image, extent=(0, 3, settings.velocity_min_m_s, settings.velocity_max_m_s), aspect="auto")
            panel.set_title(f"{activity}, {carrier_hz / 1e9:.0f} GHz", fontsize=11)
    figure.supxlabel("time, s")
    figure.supylabel("radial velocity, m/s")
    with atomic_path(IMAGES / "gait_activities.png") as temporary:
        figure.savefig(temporary, format="png")


def draw_sessions() -> None:
    """Draw two recordings of each of four sessions of one person, on one scale of dB."""
    campaign, walker = Campaign(), draw_walkers(1, SEED)[0]
    radar = radar_for_band(24e9, "toward", ("walk",))
    settings = settings_for_radar(radar)
    figure = Figure(figsize=(13, 5.6), dpi=80, layout="constrained")
    for column, panels in enumerate(np.transpose(figure.subplots(2, 4, sharex=True, sharey=True))):
        session = draw_session(SEED, 0, column, walker, campaign)
        for index, panel in enumerate(panels):
            trial = draw_trial((SEED, 0, column, index), session, "walk", campaign, Variation(), settings.duration_sec)
            levels = spectrogram_db(trial.signal(radar, settings.num_samples(radar)), radar, settings)["spectrogram"]
            panel.imshow(levels, extent=(0, 2.5, -3, 9), aspect="auto", origin="lower", vmin=-15, vmax=45)
            panel.set_title(
                f"session {column + 1}: {trial.walk.aspect_deg:+.0f}°, gain {trial.channel.gain_db:+.1f} dB,\n"
                f"noise {trial.channel.noise_floor_db:.0f} dB, clutter {trial.channel.clutter_db:.0f} dB",
                fontsize=9,
            )
    figure.supxlabel("time, s")
    figure.supylabel("radial velocity, m/s")
    with atomic_path(IMAGES / "gait_sessions.png") as temporary:
        figure.savefig(temporary, format="png")


def features(strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulate a campaign; return features of its spectrograms, users and sessions, a row for each recording.

    Args:
        strength: Factor of the differences between sessions.
    """
    campaign = Campaign(num_sessions=SESSIONS, strength=strength)
    radar = radar_for_band(24e9, "toward", ("walk",))
    settings = settings_for_radar(radar)
    rows, users, sessions = [], [], []
    for user, walker in enumerate(draw_walkers(USERS, SEED)):
        for number in range(SESSIONS):
            session = draw_session(SEED, user, number, walker, campaign)
            for index in range(RECORDINGS):
                place = (SEED, user, number, index)
                trial = draw_trial(place, session, "walk", campaign, Variation(), settings.duration_sec)
                signal = trial.signal(radar, settings.num_samples(radar))
                levels = spectrogram_db(signal, radar, settings)["spectrogram"]
                # Eight rows in one; level and its change at each velocity, and how it beats over time.
                levels = levels[: len(levels) // 8 * 8].reshape(-1, 8, levels.shape[1]).mean(axis=1)
                beats = np.abs(np.fft.rfft(levels - levels.mean(axis=1, keepdims=True), axis=1))[:, 1:13]
                rows.append(np.concatenate([levels.mean(axis=1), levels.std(axis=1), np.log(beats.mean(axis=0))]))
                users.append(user)
                sessions.append(user * SESSIONS + number)
    return np.array(rows), np.array(users), np.array(sessions)


def print_table() -> None:
    """Print how well a support-vector machine names the user on random and on session-disjoint splits."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    for strength in (0.0, 0.5, 1.0):
        rows, users, sessions = features(strength)
        classifier = make_pipeline(StandardScaler(), SVC(C=10))
        shares = []
        for splitter, groups in ((StratifiedKFold, None), (StratifiedGroupKFold, sessions)):
            folds = splitter(FOLDS, shuffle=True, random_state=0)
            scores = cross_val_score(classifier, rows, users, groups=groups, cv=folds)
            shares.append(f"{scores.mean():.1%} ({scores.min():.1%} to {scores.max():.1%})")
        sys.stdout.write(f"| {strength:g} | {shares[0]} | {shares[1]} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if "--table" in sys.argv[1:]:
        print_table()
    else:
        draw_activities()
        draw_sessions()
